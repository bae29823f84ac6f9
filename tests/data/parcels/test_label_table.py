import pytest

from nstorm.data.parcels.label_table import read_label_names

NAMES = {3: "Vis_1", 7: "Frontal Pole"}


@pytest.mark.parametrize(
    "text",
    [
        "index\tname\n3\tVis_1\n7\tFrontal Pole\n",
        "\ufeffcolor\tName\tIndex\n#ff0000\tVis_1\t3\n#00ff00\tFrontal Pole\t7\n",
        'index,name\r\n3,Vis_1\r\n7,"Frontal Pole"\r\n',
        "3\tVis_1\t120\t18\t131\t0\n7\tFrontal Pole\t120\t18\t131\t0\n",
        "# a look-up table\n\n3 Vis_1  120 18 131 0\n7   Frontal Pole 0.5 18 131 0\n",
        "7 Frontal Pole\n3 Vis_1\n3 Vis_1\n",
    ],
    ids=["bids", "columns_in_another_order", "csv", "schaefer", "freesurfer", "two_columns"],
)
def test_formats(tmp_path, text):
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_label_names(path) == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"labels\.txt names no values: give a table"),
        (b"index\tname\n", "names no values"),
        (b"name\tvalue\nVis\t1\n", r"labels\.txt, line 1: 'name\\tvalue' gives no value and name"),
        (b"1\tVis\n2\n", r"line 2: '2' gives no value and name"),
        (b"1 Vis\n2\n", r"line 2: '2' gives no value and name"),
        (b"1\tVis\n2\t\n", "line 2: .* gives no value and name"),
        (b"1\tVis\n1\tSomMot\n", r"line 2: 1 is 'Vis' and 'SomMot': name each value once"),
        (b"\x1f\x8b\x08\x00", "is no text file"),
    ],
)
def test_what_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_label_names(path)
