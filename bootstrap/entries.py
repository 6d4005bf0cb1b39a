"""A schema dump in pg_dump's plain format, cut into its entries, and when each of them is made. Pure.

pg_dump writes a comment of three lines before each entry: ``-- Name: …; Type: …; Schema: …; Owner: …``. A function's
body or a COMMENT may hold the same text, so the dump is read token by token.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Final

from psycopg import sql

from replicator.errors import SourceError
from replicator.model import FENCE


class Stage(Enum):
    """When an entry is made on the target."""

    BEFORE_DATA = "before the data"
    AFTER_DATA = "after the data"
    CUTOVER = "at cutover"
    LEFT_OUT = "never"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a dump: one or more statements. ``schema`` is empty where the object lies in none."""

    kind: str
    schema: str
    name: str
    sql: str

    def __str__(self) -> str:
        where = f"{self.schema}." if self.schema else ""
        return f"{self.kind.lower()} {where}{self.name}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The entries of a dump by stage, each in the dump's order; those that are left out are left out."""

    before_data: tuple[Entry, ...]
    after_data: tuple[Entry, ...]
    cutover: tuple[Entry, ...]


_ANY_SECTION: Final = frozenset({
    "AGGREGATE", "COLLATION", "CONVERSION", "DEFAULT", "DOMAIN", "FOREIGN TABLE", "FUNCTION", "MATERIALIZED VIEW",
    "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURE", "SCHEMA", "SEQUENCE", "SEQUENCE OWNED BY",
    "SHELL TYPE", "TABLE", "TABLE ATTACH", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE", "TYPE", "VIEW",
})  # fmt: skip
"""Made before the data, unless they come after something that is not: a view that needs a primary key does."""

_AFTER_DATA: Final = frozenset({"CHECK CONSTRAINT", "CONSTRAINT", "INDEX", "INDEX ATTACH", "STATISTICS"})

_CUTOVER: Final = frozenset({"FK CONSTRAINT", "POLICY", "ROW SECURITY", "RULE", "TRIGGER"})
"""They would fire on applied rows, or refuse them."""

_LEFT_OUT: Final = frozenset({
    "ACL", "DEFAULT ACL", "EVENT TRIGGER", "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA",
    "STATISTICS DATA", "SUBSCRIPTION", "SUBSCRIPTION TABLE",
})  # fmt: skip

_ATTACHED: Final = frozenset({"COMMENT", "SECURITY LABEL"})
"""They follow the entry that they are about, and share its stage."""

REFRESH: Final = "MATERIALIZED VIEW DATA"
"""The kind of an entry that fills a materialized view: pg_dump's own name for it, which a schema dump leaves out."""

_TOKEN: Final = re.compile(
    r"""
      ^--(?P<comment>[^\n]*)$
    | --[^\n]*
    | (?<![\w$])[eE]'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
"""A comment, or a literal or quoted name, which may hold what looks like one (documentation: Lexical Structure)."""

_HEADER: Final = re.compile(r" Name: .*; Type: [A-Z ]+; Schema: .*; Owner: -")
"""What looks like a header. Names in it are not quoted, so one may hold what looks like another one's end."""

_ALTER: Final = "\nALTER TABLE "
_IDENTITY: Final = " REPLICA IDENTITY USING INDEX "

_END: Final = " PostgreSQL database dump complete"


def header_name(name: str) -> str:
    """A name as pg_dump's headers give it: on one line."""
    return name.replace("\n", " ").replace("\r", " ")


def parse_dump(dump: str, schemas: Iterable[str]) -> list[Entry]:
    """Cut a dump of these schemas into its entries; what stands before the first one are the session's settings.

    Raises SourceError if the dump is cut off, or holds an entry of another schema.
    """
    names = sorted(map(header_name, schemas), key=len, reverse=True)
    known = "|".join(map(re.escape, ["-", *names]))
    header = re.compile(rf" Name: (?P<name>.*); Type: (?P<kind>[A-Z ]+); Schema: (?P<schema>{known}); Owner: -")
    return [
        Entry(mark["kind"], "" if mark["schema"] == "-" else mark["schema"], mark["name"], _body(dump, start, end))
        for (mark, start, _), (_, _, end) in pairwise(_marks(dump, header))
        if mark is not None
    ]


def _marks(dump: str, header: re.Pattern[str]) -> Iterator[tuple[re.Match[str] | None, int, int]]:
    """Each header with where it ends and where it begins; at last, None for the end of the dump."""
    for token in _TOKEN.finditer(dump):
        comment = token["comment"]
        if comment is None:
            continue
        if comment == _END:
            yield None, token.end(), token.start()
            return
        if _HEADER.fullmatch(comment):
            mark = header.fullmatch(comment)
            if mark is None:
                raise SourceError(f"pg_dump's output holds an entry of a schema that was not asked for:{comment}")
            yield mark, token.end(), token.start()
    raise SourceError("pg_dump's output is not complete", hint="Look at the source's log, then try again.")


def _body(dump: str, start: int, end: int) -> str:
    """The statements between two headers, each of which is framed by a line of two hyphens."""
    return dump[start:end].strip().removeprefix("--").removesuffix("--").strip()


def plan_entries(entries: Iterable[Entry]) -> Plan:
    """Sort the entries of a dump by stage. Raises SourceError at a kind that is not known (law 4)."""
    stages: dict[Stage, list[Entry]] = {stage: [] for stage in Stage}
    refreshes: list[Entry] = []
    stage, data_passed = Stage.LEFT_OUT, False
    for entry in entries:
        if entry.kind not in _ATTACHED:
            stage = _stage(entry, data_passed)
            data_passed = data_passed or stage in (Stage.AFTER_DATA, Stage.CUTOVER)
        rest, identity = _split_identity(entry)
        stages[stage].append(rest)
        if identity is not None:
            stages[Stage.CUTOVER].append(identity)
        if entry.kind == "MATERIALIZED VIEW":
            refreshes.append(_refresh(entry))
    return Plan(tuple(stages[Stage.BEFORE_DATA]), tuple(stages[Stage.AFTER_DATA]), (*stages[Stage.CUTOVER], *refreshes))


def _stage(entry: Entry, data_passed: bool) -> Stage:
    if entry.kind == "TRIGGER" and entry.name.endswith(f" {FENCE}"):
        return Stage.LEFT_OUT
    if entry.kind in _ANY_SECTION:
        return Stage.AFTER_DATA if data_passed else Stage.BEFORE_DATA
    if entry.kind == "RULE" and entry.sql.startswith("CREATE OR REPLACE VIEW"):
        # a view that was made as a shell, because what it selects from was not there yet
        return Stage.AFTER_DATA
    for kinds, stage in (
        (_AFTER_DATA, Stage.AFTER_DATA),
        (_CUTOVER, Stage.CUTOVER),
        (_LEFT_OUT, Stage.LEFT_OUT),
    ):
        if entry.kind in kinds:
            return stage
    raise SourceError(
        f"the schema holds what replicator does not know how to copy: {entry}",
        hint="Move it to a schema that REPLICATOR_EXCLUDE_SCHEMAS names, or make the schema yourself and set "
        "REPLICATOR_SCHEMA=existing.",
    )


def _split_identity(entry: Entry) -> tuple[Entry, Entry | None]:
    """An index, and what makes it its table's replica identity, if the dump does.

    That takes columns that are NOT NULL, as those that a deploy has made so are only after the cutover.
    """
    rest, _, last = entry.sql.rpartition(_ALTER)
    if entry.kind not in ("INDEX", "CONSTRAINT") or not rest or _IDENTITY not in last:
        return entry, None
    return replace(entry, sql=rest.rstrip()), replace(entry, kind="REPLICA IDENTITY", sql=f"{_ALTER.lstrip()}{last}")


def _refresh(view: Entry) -> Entry:
    statement = sql.SQL("REFRESH MATERIALIZED VIEW {};").format(sql.Identifier(view.schema, view.name))
    return Entry(REFRESH, view.schema, view.name, statement.as_string())
