"""The hub without a network: what is asked of it, and what its errors become."""

import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from nstorm.nets.weights.hub import locate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cached.ckpt"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def calls(monkeypatch, file):
    made = []

    def hf_hub_download(**kwargs):
        made.append(kwargs)
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return made


def fails_with(monkeypatch, kind, text="", files=()):
    # without its constructor, which differs from version to version
    error = kind.__new__(kind)
    error.args = (text,)

    def hf_hub_download(**kwargs):
        raise error

    def list_repo_files(*args, **kwargs):
        if isinstance(files, Exception):
            raise files
        return list(files)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", list_repo_files)


@pytest.mark.parametrize("source", ["lab/NeuroSTORM-1.5", "hf://lab/NeuroSTORM-1.5"])
def test_a_repository_on_the_hub(calls, file, source):
    assert locate(source, "v2", "pretraining/mae.ckpt") == (
        file,
        "hf://lab/NeuroSTORM-1.5/pretraining/mae.ckpt at v2",
    )
    assert locate(source, None, None) == (file, "hf://lab/NeuroSTORM-1.5/model.safetensors")
    assert calls == [
        {"repo_id": "lab/NeuroSTORM-1.5", "filename": "pretraining/mae.ckpt", "revision": "v2"},
        {"repo_id": "lab/NeuroSTORM-1.5", "filename": "model.safetensors", "revision": None},
    ]


def test_a_path_that_exists_wins(calls, file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab" / "net").mkdir(parents=True)
    inner = tmp_path / "lab" / "net" / "model.ckpt"
    inner.write_bytes(b"")
    assert locate("lab/net", None, "model.ckpt")[0].samefile(inner)
    assert locate(file, None, None) == (file, str(file))
    assert not calls
    locate("hf://lab/net", None, "model.ckpt")
    assert len(calls) == 1


def test_the_hub_is_imported_only_when_used(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert locate(str(file), None, None)[0] == file
    with pytest.raises(ImportError):
        locate("lab/net", None, None)


@pytest.mark.parametrize("source", ["missing.ckpt", "weights/missing.safetensors", "a/b/c", "./lab/net", "net"])
def test_a_path_that_does_not_exist(calls, source):
    with pytest.raises(
        FileNotFoundError, match=r"there is no file /.*, and '.*' is not the id of a repository"
    ) as error:
        locate(source, None, None)
    assert repr(source) in str(error.value)
    assert not calls


def test_a_path_object_is_never_an_id(calls):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        locate(Path("lab/net"), None, None)
    assert not calls


@pytest.mark.parametrize(
    ("revision", "filename", "kind", "message"),
    [
        ("main", None, ValueError, "revision 'main' is for the hub, but .* is on this machine"),
        (None, "x.ckpt", ValueError, "filename 'x.ckpt' is for a folder or the hub, but .* is a file already"),
    ],
)
def test_arguments_for_the_hub_do_not_go_with_a_file(file, revision, filename, kind, message):
    with pytest.raises(kind, match=message):
        locate(file, revision, filename)


def test_a_folder_needs_the_name_of_its_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder: give the file in it"):
        locate(tmp_path, None, None)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*mae\.ckpt"):
        locate(tmp_path, None, "mae.ckpt")


@pytest.mark.parametrize("source", ["hf://lab", "hf://lab/net/file.ckpt", "hf:///net"])
def test_an_id_that_is_none(calls, source):
    with pytest.raises(ValueError, match=r"is not the id of a repository on the hub.*given as filename="):
        locate(source, None, None)
    assert not calls


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.GatedRepoError, PermissionError, r"lab/net on the hub is for those who were given access.*login\(\)"),
        (errors.RepositoryNotFoundError, FileNotFoundError, "the hub has no repository 'lab/net'.*check the spelling"),
        (errors.RevisionNotFoundError, FileNotFoundError, "lab/net on the hub has no revision 'v9': give a branch"),
        (errors.LocalEntryNotFoundError, ConnectionError, r"lab/net: mae\.ckpt was never fetched.*HF_HUB_OFFLINE"),
        (errors.OfflineModeIsEnabled, ConnectionError, r"lab/net: mae\.ckpt was never fetched.*HF_HUB_OFFLINE"),
        (errors.HfHubHTTPError, ConnectionError, r"lab/net: mae\.ckpt could not be fetched.*: 503 Server Error$"),
    ],
)
def test_errors_of_the_hub_are_one_sentence(monkeypatch, error, kind, message):
    fails_with(monkeypatch, error, "503 Server Error\nRequest ID: 1")
    with pytest.raises(kind, match=message) as raised:
        locate("lab/net", "v9", "mae.ckpt")
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value.__cause__, error)


def test_a_file_that_the_repository_lacks(monkeypatch):
    fails_with(monkeypatch, errors.EntryNotFoundError, files=["README.md", "a/mae.ckpt", "b.safetensors"])
    with pytest.raises(FileNotFoundError, match=r"no file 'model.safetensors': pass filename='a/mae.ckpt' or 'b.saf"):
        locate("lab/net", None, None)
    fails_with(monkeypatch, errors.EntryNotFoundError, files=OSError("offline"))
    with pytest.raises(FileNotFoundError, match=r"no file 'model.safetensors': pass filename=the name of one$"):
        locate("lab/net", None, None)
