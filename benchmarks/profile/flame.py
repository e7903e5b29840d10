"""Draws stacks as a flame graph: one SVG, width is time, each frame stands on its caller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from benchmarks.profile.stacks import Stacks

WIDTH, ROW, HEAD = 1600.0, 16, 40
NARROWEST = 0.6
"""Pixels; a narrower frame is left out, with what stands on it."""
LETTER = 6.2
"""Pixels that a letter takes."""
COLOURS = (
    (("corerec/", "gateway/", "_svc/"), "#7fb3d9"),
    (("torch/",), "#e08a80"),
    (("grpc/", "cygrpc", "grpc_"), "#f0b46a"),
    (("google/protobuf", "_pb2"), "#e9d38c"),
    (("asyncio/", "uvloop", "concurrent/", "threading"), "#c3c3c3"),
    (("ray/",), "#b7a3cf"),
    (("numba", "numpy/", "polars/", "faiss"), "#8fc7a4"),
)
"""By part of the file's name; else OTHER."""
OTHER = "#dcdcdc"


@dataclass(slots=True)
class Frame:
    """A frame and those that it calls."""

    name: str
    count: float = 0.0
    calls: dict[str, Frame] = field(default_factory=dict)


def tree(services: Mapping[str, Stacks], core_ms: Mapping[str, float]) -> Frame:
    """Return the frames of all services side by side.

    Args:
        core_ms: measured core-milliseconds an answer of each service; its stacks share these, since
            samplers of several processes do not see equal shares of them.
    """
    root = Frame("all services", sum(core_ms.values()))
    for service, stacks in services.items():
        top = root.calls.setdefault(service, Frame(service, core_ms[service]))
        each = core_ms[service] / max(stacks.total(), 1)
        for stack, samples in stacks.items():
            frame = top
            for name in stack:
                frame = frame.calls.setdefault(name, Frame(name))
                frame.count += samples * each
    return root


def draw(root: Frame, title: str, path: Path) -> None:
    """Write the SVG. `title` stands above it."""
    boxes = list(_boxes(root, 0.0, 0, WIDTH / max(root.count, 1e-9)))
    depth = 1 + max(row for row, *_ in boxes)
    height = HEAD + depth * ROW + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:.0f}" height="{height}" '
        f'viewBox="0 0 {WIDTH:.0f} {height}" font-family="monospace" font-size="10">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for row, x, width, frame in boxes:
        y = height - 8 - (row + 1) * ROW
        share = 100 * frame.count / max(root.count, 1e-9)
        shown = int((width - 4) / LETTER)
        text = frame.name if len(frame.name) <= shown else frame.name[: max(shown - 2, 0)] + ".."
        lines.append(
            f"<g><title>{escape(frame.name)}: {frame.count:.3f} core-ms an answer, {share:.1f}%"
            f'</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.2):.1f}" '
            f'height="{ROW - 1}" rx="1" fill="{_colour(frame.name)}"/>'
            + (f'<text x="{x + 2:.1f}" y="{y + 11}">{escape(text)}</text>' if shown > 3 else "")
            + "</g>"
        )
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")


def _boxes(
    frame: Frame, x: float, row: int, scale: float
) -> Iterator[tuple[int, float, float, Frame]]:
    """Yield row, left edge and width of every frame that is wide enough."""
    yield row, x, frame.count * scale, frame
    for inner in sorted(frame.calls.values(), key=lambda call: -call.count):
        if inner.count * scale >= NARROWEST:
            yield from _boxes(inner, x, row + 1, scale)
        x += inner.count * scale


def _colour(name: str) -> str:
    for parts, colour in COLOURS:
        if any(part in name for part in parts):
            return colour
    return OTHER
