"""Renders protos and their comments as one Markdown page; called by scripts/proto-reference."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

# Where descriptor.proto keeps each kind, as paths in SourceCodeInfo name it.
MESSAGE, ENUM, SERVICE = 4, 5, 6
FIELD_IN_MESSAGE, VALUE_IN_ENUM, METHOD_IN_SERVICE = 2, 2, 2

# "NOT_FOUND: an item that ..." in a method's comment becomes an item of a list.
STATUS = re.compile(r"(?:^|(?<=\n)| )([A-Z][A-Z_]{7,}):")

HEAD = """\
# Proto reference

Generated from the comments in `protos/` by `make protos`; edit those, not this page.
Package `corerec.v1`. `RecommenderService` is the public door; the other services are internal to
a cluster and may change together with it.
"""


def compile_protos(folder: Path) -> list[FileDescriptorProto]:
    """Return the descriptors of every proto under `folder`, comments included."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        options = [f"-I{folder}", f"--descriptor_set_out={out.name}", "--include_source_info"]
        if protoc.main(["protoc", *options, *files]):
            raise SystemExit(1)
        return list(FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


class Page:
    """One file's part of the page."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self.comments = {
            tuple(place.path): place.leading_comments
            for place in file.source_code_info.location
            if place.leading_comments
        }

    def text(self, *path: int) -> str:
        """Return the comment at `path`, one line a paragraph."""
        paragraphs = self.comments.get(path, "").split("\n\n")
        return "\n\n".join(" ".join(part.split()) for part in paragraphs)

    def lines(self) -> Iterator[str]:
        """Yield the Markdown of the file: services, then messages, then enums."""
        yield f"## {self.file.name}\n"
        for number, service in enumerate(self.file.service):
            yield from self.service(service, number)
        for number, message in enumerate(self.file.message_type):
            yield from self.message(message, number)
        for number, enum in enumerate(self.file.enum_type):
            yield from self.enum(enum, number)

    def service(self, service: ServiceDescriptorProto, number: int) -> Iterator[str]:
        """Yield one service and its methods."""
        yield f"### service {service.name}\n\n{self.text(SERVICE, number)}\n"
        for place, method in enumerate(service.method):
            asks, answers = link(method.input_type), link(method.output_type)
            yield f"**`{method.name}`** ({asks}) returns {answers}\n"
            words = self.text(SERVICE, number, METHOD_IN_SERVICE, place)
            yield STATUS.sub(r"\n- `\1`:", words) + "\n"

    def message(self, message: DescriptorProto, number: int) -> Iterator[str]:
        """Yield one message as a table of its fields."""
        yield f"### {message.name}\n\n{self.text(MESSAGE, number)}\n"
        if not message.field:
            return
        yield "| # | field | type | meaning |\n|---|---|---|---|"
        for place, field in enumerate(message.field):
            words = cell(self.text(MESSAGE, number, FIELD_IN_MESSAGE, place))
            yield f"| {field.number} | `{field.name}` | {type_name(field, message)} | {words} |"
        yield ""

    def enum(self, enum: EnumDescriptorProto, number: int) -> Iterator[str]:
        """Yield one enum as a table of its values."""
        yield f"### {enum.name}\n\n{self.text(ENUM, number)}\n"
        yield "| # | value | meaning |\n|---|---|---|"
        for place, value in enumerate(enum.value):
            words = cell(self.text(ENUM, number, VALUE_IN_ENUM, place))
            yield f"| {value.number} | `{value.name}` | {words} |"
        yield ""


def cell(text: str) -> str:
    """Return `text` fit for one table cell."""
    return text.replace("\n\n", "<br>").replace("|", "\\|")


def link(type_name: str) -> str:
    """Return a link to a message or enum of the page."""
    name = type_name.rsplit(".", 1)[-1]
    return f"[{name}](#{name.lower()})"


def type_name(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Return the type as the proto writes it, with links to messages and enums."""
    if not field.type_name:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        return f"repeated {name}" if field.label == field.LABEL_REPEATED else name
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{nested.name}"):
            key, value = (type_name(part, nested) for part in nested.field)
            return f"map&lt;{key}, {value}&gt;"
    name = link(field.type_name)
    return f"repeated {name}" if field.label == field.LABEL_REPEATED else name


def main(argv: Sequence[str]) -> int:
    """Write the page, or with --check say whether it is fresh."""
    folder, page = Path(argv[0]), Path(argv[1])
    files = sorted(compile_protos(folder), key=lambda file: "recommender" not in file.name)
    lines = [HEAD, *(line for file in files for line in Page(file).lines())]
    text = "\n".join(lines).rstrip() + "\n"
    if "--check" not in argv:
        page.parent.mkdir(exist_ok=True)
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        print(f"{page} is not what {folder} generates: run scripts/proto-reference")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
