import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nstorm.data.preparation.failures import Failure, table_name, write_table
from nstorm.data.report.page import quality_report
from nstorm.data.store.record import COMMITS
from nstorm.data.store.store import Store
from tests.data.report.fabricated import add_run, fabricated_store


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def sections(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "section"]

    @property
    def images(self) -> list[str]:
        return [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]

    @property
    def table(self) -> dict[str, Any]:
        return next(json.loads(text) for text in self.texts if text.startswith('{"decimals"'))


def _page(store: Store, folder: Path, **options: Any) -> _Page:
    return _Page(quality_report(store, folder / "report.html", progress=False, **options))


@pytest.fixture(scope="module")
def of_ten(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    """Ten runs, two of them flagged, and a page with pictures of four."""
    folder = tmp_path_factory.mktemp("of_ten")
    store = fabricated_store(folder, 8, ["half", "slow"])
    return store, quality_report(store, folder / "report.html", progress=False, most=4)


def test_a_page_stands_alone_and_shows_flagged_runs_first(of_ten: tuple[Store, Path]) -> None:
    page = _Page(of_ten[1])
    assert "2 of 10 runs are flagged" in page.text
    assert all(source.startswith("data:image/webp;base64,") for source in page.images)
    others = {value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")}
    assert all(str(value).startswith(("data:", "#")) for value in others)
    assert not re.search(r"https?://|@import|url\(", of_ten[1].read_text())
    # tSNR, DVARS, displacement, volume, overlap and number of frames of all runs, and two of each run
    assert len(page.images) == 6 + 2 * 4
    assert [section["class"] for section in page.sections] == ["run flagged"] * 2 + ["run"] * 2
    assert of_ten[1].stat().st_size < 1e6


def test_the_table_has_every_run_and_links_to_its_pictures(of_ten: tuple[Store, Path]) -> None:
    store, page = of_ten[0], _Page(of_ten[1])
    table = page.table
    assert [row[0] for row in table["rows"]] == list(store)
    by_title = [dict(zip(table["titles"], row, strict=True)) for row in table["rows"]]
    assert {row["run"] for row in by_title if row["problems"]} == {"half", "slow"}
    assert next(row["TR, s"] for row in by_title if row["run"] == "slow") == 2.0
    linked = {f"run-{number}" for number in table["pictures"] if number is not None}
    assert linked == {section["id"] for section in page.sections}
    # what all names say already is no column
    assert "task" in table["titles"]
    assert "subject" not in table["titles"]


def test_no_pictures_are_wanted(tmp_path: Path) -> None:
    page = _page(fabricated_store(tmp_path, 2), tmp_path, most=0)
    assert not page.images
    assert "0 of 2 runs are flagged" in page.text


def test_chosen_runs_only(tmp_path: Path) -> None:
    page = _page(fabricated_store(tmp_path, 3), tmp_path, runs=["sub-01"])
    assert [row[0] for row in page.table["rows"]] == ["sub-01"]
    assert len(page.images) == 2


def test_runs_that_are_not_there_are_named(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 3)
    failures = [Failure("sub-77", "/study/sub-77.nii", "is cut short"), Failure("sub-00", "/study/sub-00.nii", "once")]
    write_table(store.place, table_name(), failures)
    next(Path(store.place.url, COMMITS).glob("sub-02.*")).write_text("{")
    with pytest.warns(UserWarning, match="sub-02"):
        page = _page(Store(store.place.url), tmp_path, most=0)
    assert "sub-77 is cut short" in page.text
    assert "once" not in page.text
    assert "2 more could not be prepared or cannot be read" in page.text
    assert "sub-02" in page.text


def test_a_run_that_cannot_be_read_does_not_hinder_the_others(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 3)
    for chunk in Path(store["sub-01"].name, "voxels").rglob("c/*/*"):
        chunk.write_bytes(b"")
    page = _page(store, tmp_path)
    assert len(page.images) == 2 * 2
    assert len(page.sections) == 3


def test_labels_are_text(tmp_path: Path) -> None:
    store = Store(tmp_path / "study", create=True)
    label = "</script><script>alert(1)</script><b>"
    add_run(store, "sub-00", 0, labels={"site": label})
    store.refresh()
    page = _page(store, tmp_path)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert "b" not in [tag for tag, _ in page.tags]
    assert label in page.table["rows"][0]


def test_a_page_replaces_the_one_before_and_takes_any_name(tmp_path: Path) -> None:
    store = fabricated_store(tmp_path, 1)
    path = tmp_path / "deep" / "quality.html"
    for most in (0, 1):
        assert quality_report(store, str(path), most=most, progress=False) == path
    assert [file.name for file in path.parent.iterdir()] == ["quality.html"]
    assert len(_Page(path).images) == 2
