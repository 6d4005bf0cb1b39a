"""Types that an application makes: enums, domains, composites, ranges, and arrays of them."""

from collections.abc import Iterator
from typing import Final

from tests.torture.model import ColumnType, literal, quoted

_LABELS: Final = ("a", "B", "", "two words", "O'Brien", '"q"', "com,ma", "(x)", "ünï", "back\\slash")


class UserTypes:
    """The types of one schema: the statements that make them, then what columns may be of."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self.statements: list[str] = []
        self.column_types = [*self._enums(), *self._domains(), *self._composites(), *self._ranges()]

    def _make(self, name: str, statement: str) -> str:
        full = quoted(self._schema, name)
        self.statements.append(statement.replace("{}", full))
        return full

    def _enums(self) -> Iterator[ColumnType]:
        labels = tuple(map(literal, _LABELS))
        enum = self._make("Mood", f"CREATE TYPE {{}} AS ENUM ({', '.join(labels)})")
        yield ColumnType(enum, labels)
        yield ColumnType(f"{enum}[]", (r"""'{a,"two words","",NULL}'""", "'{}'", r"""'{{"(x)"},{"com,ma"}}'"""))

    def _domains(self) -> Iterator[ColumnType]:
        valid = self._make("valid", "CREATE FUNCTION {}(integer) RETURNS boolean LANGUAGE sql AS 'SELECT $1 < 100000'")
        small = self._make("small", f"CREATE DOMAIN {{}} AS integer NOT NULL DEFAULT 7 CHECK ({valid}(VALUE))")
        yield ColumnType(f"{small}", ("-5", "99999"), "{n}", hashable=True, nullable=False)
        smaller = self._make("smaller", f"CREATE DOMAIN {{}} AS {small} CHECK (VALUE < 50000)")
        yield ColumnType(f"{smaller}", ("1", "2"), nullable=False)
        yield ColumnType(f"{small}[]", ("'{1,2}'", "'[0:0]={5}'"))
        words = self._make("words", "CREATE DOMAIN {} AS text[] CHECK (cardinality(VALUE) < 5)")
        yield ColumnType(words, (r"""'{"a b",NULL}'""", "'{}'"), "ARRAY['w{n}']")
        money = self._make("amount", "CREATE DOMAIN {} AS numeric(20,4)")
        yield ColumnType(money, ("1.50", "1.5", "'NaN'"), "{n}.25", hashable=True)

    def _composites(self) -> Iterator[ColumnType]:
        mood, amount = quoted(self._schema, "Mood"), quoted(self._schema, "amount")
        pair = self._make("Pa ir", f'CREATE TYPE {{}} AS (a integer, "B b" text, c {mood}, d {amount}[])')
        values = (r"""'(1,"a ""b"" \\ , ( )","two words","{1.0,NULL}")'""", "'(,,,)'", """'(,"",,{})'""")
        yield ColumnType(pair, values, f"ROW({{n}}, 'x', 'a', '{{1.0}}')::{pair}")
        yield ColumnType(f"{pair}[]", (r"""'{"(1,b,a,\"{1,2}\")",NULL}'""", "'{}'"))
        whole = self._make("whole", f"CREATE DOMAIN {{}} AS {pair} CHECK ((VALUE).a IS NULL OR (VALUE).a < 1000)")
        yield ColumnType(whole, values)

    def _ranges(self) -> Iterator[ColumnType]:
        mood = quoted(self._schema, "Mood")
        moods = self._make("moods", f"CREATE TYPE {{}} AS RANGE (subtype = {mood})")
        yield ColumnType(moods, (r"""'["","two words")'""", "'empty'", "'(,B]'"))
        words = self._make("wordrange", 'CREATE TYPE {} AS RANGE (subtype = text, collation = "C")')
        yield ColumnType(words, (r"""'["a,b","c\\d"]'""", r"""'("",)'""", "'empty'"))
        many = quoted(self._schema, "many floats")
        floats = self._make("floats", f"CREATE TYPE {{}} AS RANGE (subtype = float8, multirange_type_name = {many})")
        yield ColumnType(floats, ("'[0.1,0.30000000000000004)'", "'[-Infinity,NaN]'"), f"{floats}({{n}}, {{n}} + 0.5)")
        yield ColumnType(many, ("'{[0.1,0.2),[1,)}'", "'{}'"))
