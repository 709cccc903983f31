"""The pictures that are kept are those that their script draws, each of them stands on a page, and no text is cut."""

import re
import xml.etree.ElementTree as ElementTree

import draw_timelines
import pytest
from conftest import files

DRAWN = draw_timelines.drawn()


def test_the_kept_pictures_are_what_the_script_writes():
    """To draw them again: python3 tools/draw_timelines.py."""
    assert {path.name: path.read_text() for path in draw_timelines.FOLDER.iterdir()} == DRAWN


def test_the_script_writes_its_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(draw_timelines, "FOLDER", tmp_path / "pictures")
    draw_timelines.main()
    assert {path.name: path.read_text() for path in (tmp_path / "pictures").iterdir()} == DRAWN


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_stands_on_a_page_with_words_for_who_cannot_see_it(name):
    shown = [word for path in files(".md") for word in re.findall(rf"!\[([^\]]*)\]\([^)]*{name}\)", path.read_text())]
    assert shown and all(shown)
    assert ElementTree.fromstring(DRAWN[name]).find("{http://www.w3.org/2000/svg}title").text


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_drawn_outside_of_a_picture(name):
    picture = ElementTree.fromstring(DRAWN[name])
    width, height = int(picture.get("width")), int(picture.get("height"))
    boxes = [box for box in picture.findall("{http://www.w3.org/2000/svg}rect") if box.get("x") != "0.5"]
    assert boxes
    for box in boxes:
        x, y, right, down = (int(box.get(key)) for key in ("x", "y", "width", "height"))
        assert 0 < x < x + right < width and 0 < y < y + down < height


@pytest.mark.parametrize("draw", draw_timelines.PICTURES)
def test_boxes_of_one_lane_do_not_overlap(draw, monkeypatch):
    taken = {}
    box = draw_timelines.Picture.box

    def noted(picture, lane, start, end, text, kind):
        taken.setdefault(lane, []).append((start, end))
        box(picture, lane, start, end, text, kind)

    monkeypatch.setattr(draw_timelines.Picture, "box", noted)
    draw()
    for spans in taken.values():
        assert all(before[1] <= after[0] for before, after in zip(sorted(spans), sorted(spans)[1:]))


def test_text_that_does_not_fit_is_no_picture():
    picture = draw_timelines.Picture("name", "title", "caption", ("host", ""))
    with pytest.raises(ValueError, match="'a long text' does not fit into 40 pixels"):
        picture.box(0, 0, 40, "a long text", "host")
