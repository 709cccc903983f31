"""Draws the pictures of docs/order.md: what runs when, on the host and on each stream.

Run as a program, this writes docs/pictures/. It needs nothing but Python, and writes the same bytes every time; the style
suite compares them with what is kept. Text that does not fit into its box is an error, not a picture.
"""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parent.parent / "docs/pictures"

# All in pixels. Time runs from TIME to the right margin, 0 to 620.
WIDTH, MARGIN, TIME = 760, 14, 126
TOP, LANE, BOX, FOOT = 12, 58, 34, 42
TEXT, SMALL = 14, 12

FONT = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
LETTER = 0.58  # the width of a letter, of its height, in a font that runs wide

# Fill, line, and whether the line is dashed.
BOXES = {
    "host": ("#eceff3", "#6b7480", False),
    "producer": ("#d6e6ff", "#3b6fb5", False),
    "yours": ("#ffe2b5", "#b86e00", False),
    "recorded producer": ("#ffffff", "#3b6fb5", True),
    "recorded yours": ("#ffffff", "#b86e00", True),
    "helper": ("#ece2fb", "#7a52b3", False),
    "wait": ("url(#waiting)", "#6b7480", False),
}
ARROWS = {"event": "#1a7f37", "later": "#7a52b3"}

WAITING = (
    '<pattern id="waiting" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="8" height="8" fill="#ffffff"/><rect width="3" height="8" fill="#e2e5e9"/></pattern>'
)


def width_of(text, size):
    return len(text) * size * LETTER


def written(x, y, text, size=TEXT, anchor="middle", more=""):
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


class Picture:
    """Lanes from top to bottom, the first of which is the host; boxes, arrows and notes are added at their times."""

    def __init__(self, name, title, caption, *lanes):
        self.name, self.title, self.caption, self.lanes = name, title, caption, lanes
        self.lines, self.boxes, self.arrows, self.used = [], [], [], set()

    def _middle(self, lane):
        return TOP + LANE * lane + LANE // 2

    def _check(self, text, size, room):
        if width_of(text, size) > room:
            raise ValueError(f"{self.name}: '{text}' does not fit into {room} pixels")

    def box(self, lane, start, end, text, kind):
        self._check(text, TEXT, end - start)
        fill, line, dashed = BOXES[kind]
        y = self._middle(lane)
        dashes = ' stroke-dasharray="5 3"' if dashed else ""
        self.boxes += [
            f'<rect x="{TIME + start}" y="{y - BOX // 2}" width="{end - start}" height="{BOX}" rx="5" fill="{fill}" '
            f'stroke="{line}" stroke-width="1.5"{dashes}/>',
            written(TIME + (start + end) // 2, y + 5, text),
        ]

    def moment(self, start, end, text):
        """A call of the host; a thin line shows what it meets on the streams."""
        self.box(0, start, end, text, "host")
        x = TIME + (start + end) // 2
        bottom = TOP + LANE * len(self.lanes)
        self.lines.append(
            f'<line x1="{x}" y1="{self._middle(0)}" x2="{x}" y2="{bottom}" stroke="#8c959f" stroke-dasharray="2 4"/>'
        )

    def arrow(self, source, start, target, end, kind="event"):
        """From the end of a box to the beginning of another one."""
        colour = ARROWS[kind]
        self.used.add(kind)
        toward = 9 if target > source else -9
        x1, y1, x2, y2 = TIME + start, self._middle(source), TIME + end - 2, self._middle(target) - toward
        dashes = ' stroke-dasharray="5 3"' if kind == "later" else ""
        self.arrows += [
            f'<path d="M {x1} {y1} C {x1 + 24} {y1}, {x2 - 26} {y2}, {x2} {y2}" fill="none" stroke="{colour}" '
            f'stroke-width="2"{dashes} marker-end="url(#{kind})"/>',
            f'<circle cx="{x1}" cy="{y1}" r="4.5" fill="{colour}"/>',
        ]

    def note(self, lane, start, text, size=SMALL + 1):
        self._check(text, size, WIDTH - TIME - MARGIN - start)
        more = ' fill="#57606a" font-style="italic" stroke="#ffffff" stroke-width="6" paint-order="stroke"'
        self.boxes.append(written(TIME + start, self._middle(lane) + 4, text, size, "start", more))

    def _label(self, lane):
        name, what = self.lanes[lane]
        self._check(name, TEXT, TIME - MARGIN)
        self._check(what, SMALL, TIME - MARGIN)
        y = self._middle(lane)
        right = f'<line x1="{TIME}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}" stroke="#d0d7de"/>'
        below = [written(MARGIN, y + 13, what, SMALL, "start", ' fill="#57606a"')] if what else []
        return [right, written(MARGIN, y - 3 if what else y + 5, name, TEXT, "start", ' font-weight="bold"'), *below]

    def _foot(self, y):
        self._check(self.caption, SMALL + 1, WIDTH - 2 * MARGIN)
        line = f'<line x1="{MARGIN}" y1="{y}" x2="{WIDTH - MARGIN}" y2="{y}" stroke="#d0d7de"/>'
        return [line, written(MARGIN, y + 26, self.caption, SMALL + 1, "start")]

    def svg(self):
        bottom = TOP + LANE * len(self.lanes)
        heads = [
            f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="10" markerHeight="10" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z" fill="{ARROWS[kind]}"/></marker>'
            for kind in sorted(self.used)
        ]
        size = f'width="{WIDTH}" height="{bottom + FOOT}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {bottom + FOOT}" role="img" '
                f'font-family="{FONT}" fill="#1f2328">',
                f"<title>{escape(self.title)}</title>",
                f"<defs>{''.join([*heads, WAITING])}</defs>",
                f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{bottom + FOOT - 1}" rx="10" fill="#ffffff" '
                'stroke="#d0d7de"/>',
                *[line for lane in range(len(self.lanes)) for line in self._label(lane)],
                *self.lines,
                *self.boxes,
                *self.arrows,
                *self._foot(bottom),
                "</svg>",
                "",
            ]
        )


HOST = ("host", "your function")
PRODUCER = ("stream P", "the producer's")
CONSUMER = ("stream C", "yours")


def call(picture, start=56):
    """What the host does in every picture where it does not wait."""
    picture.moment(start, start + 70, "acquire")
    picture.box(0, start + 76, start + 140, "launch", "host")
    picture.moment(start + 146, start + 216, "release")


def adopt():
    picture = Picture(
        "order-adopt",
        "cai_order_adopt: your kernel is enqueued on the producer's own stream",
        "One stream is an order of its own: no event and no wait is needed.",
        HOST,
        PRODUCER,
    )
    call(picture)
    picture.note(0, 286, "goes on, and has waited for nothing")
    picture.box(1, 8, 210, "producer's kernel", "producer")
    picture.box(1, 214, 400, "your kernel", "yours")
    picture.box(1, 404, 600, "producer's next kernel", "producer")
    return picture


def wait():
    picture = Picture(
        "order-wait",
        "cai_order_wait: events order your stream after the producer's, and the producer's after yours",
        "Green: an event, recorded on one stream at the dot, which the other waits for at the arrow.",
        HOST,
        PRODUCER,
        CONSUMER,
    )
    call(picture)
    picture.note(0, 286, "goes on, and has waited for nothing")
    picture.box(1, 8, 186, "producer's kernel", "producer")
    picture.box(1, 420, 612, "producer's next kernel", "producer")
    picture.box(2, 218, 388, "your kernel", "yours")
    picture.arrow(1, 186, 2, 218)
    picture.arrow(2, 388, 1, 420)
    return picture


def block():
    picture = Picture(
        "order-block",
        "cai_order_block: the acquire returns when the producer's work is done",
        "For code that touches the memory from the host. The GIL is released while the host waits.",
        HOST,
        PRODUCER,
    )
    picture.moment(56, 126, "acquire")
    picture.box(0, 126, 276, "waits", "wait")
    picture.box(0, 308, 438, "your host code", "host")
    picture.moment(444, 514, "release")
    picture.box(1, 8, 276, "producer's kernel", "producer")
    picture.arrow(1, 276, 0, 308)
    return picture


def none():
    picture = Picture(
        "order-none",
        "cai_order_none: cai orders nothing",
        "Nothing lies between the kernels: they may overlap, unless you order them yourself.",
        HOST,
        PRODUCER,
        CONSUMER,
    )
    call(picture)
    picture.box(1, 8, 330, "producer's kernel", "producer")
    picture.box(1, 336, 540, "producer's next kernel", "producer")
    picture.box(2, 200, 430, "your kernel", "yours")
    return picture


def late():
    picture = Picture(
        "order-late",
        "A producer that tells no stream: the array is given back when your work is done",
        "The object lives on until your kernel is done; neither the host nor stream C waits for that.",
        HOST,
        ("legacy", "taken for P"),
        CONSUMER,
        ("helper", "cai's own"),
    )
    call(picture, 50)
    picture.note(0, 280, "goes on; the object is kept")
    picture.box(1, 8, 180, "producer's kernel", "producer")
    picture.box(2, 212, 372, "your kernel", "yours")
    picture.box(3, 404, 496, "says so", "helper")
    picture.box(0, 524, 618, "gives back", "helper")
    picture.arrow(1, 180, 2, 212)
    picture.arrow(2, 372, 3, 404)
    picture.arrow(3, 496, 0, 524, "later")
    return picture


def several():
    picture = Picture(
        "order-several",
        "Several arguments on several streams: all are ordered onto the launch stream, and back",
        "The kernel runs when every argument is ready, and each producer goes on behind it.",
        HOST,
        ("stream P1", "launched on"),
        ("stream P2", "of argument 2"),
        ("stream P3", "of argument 3"),
    )
    picture.moment(56, 126, "begin")
    picture.box(0, 132, 196, "launch", "host")
    picture.moment(202, 272, "end")
    picture.note(0, 286, "goes on, and has waited for nothing")
    picture.box(1, 8, 130, "argument 1", "producer")
    picture.box(2, 28, 166, "argument 2", "producer")
    picture.box(3, 8, 196, "argument 3", "producer")
    picture.box(1, 260, 410, "your kernel", "yours")
    picture.box(1, 450, 576, "next", "producer")
    picture.box(2, 450, 576, "next", "producer")
    picture.box(3, 450, 576, "next", "producer")
    picture.arrow(2, 166, 1, 260)
    picture.arrow(3, 196, 1, 260)
    picture.arrow(1, 410, 2, 450)
    picture.arrow(1, 410, 3, 450)
    return picture


def capture():
    picture = Picture(
        "order-capture",
        "A graph capture: your kernel becomes a node, an event becomes an edge",
        "Dashed: recorded, not run. The streams share one capture, so that an event becomes an edge.",
        HOST,
        ("stream P", "captures"),
        ("stream Q", "captures too"),
    )
    picture.box(0, 0, 60, "begin", "host")
    picture.moment(66, 136, "acquire")
    picture.box(0, 142, 202, "launch", "host")
    picture.moment(208, 278, "release")
    picture.box(0, 284, 326, "end", "host")
    picture.box(0, 340, 410, "replay", "host")
    picture.note(0, 420, "any number of times")
    for start, kind in ((0, "recorded "), (338, "")):
        picture.box(1, start + 4, start + 80, "kernel", kind + "producer")
        picture.box(2, start + 4, start + 80, "kernel", kind + "producer")
        picture.box(1, start + 140, start + 198, "yours", kind + "yours")
        picture.box(2, start + 230, start + 280, "next", kind + "producer")
        picture.arrow(2, start + 80, 1, start + 140)
        picture.arrow(1, start + 198, 2, start + 230)
    return picture


PICTURES = [adopt, wait, block, none, several, late, capture]


def drawn():
    """Every picture: the name of its file to its text."""
    return {f"{picture.name}.svg": picture.svg() for picture in (draw() for draw in PICTURES)}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, text in drawn().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
