"""Every built-in type and the bundled extensions' ones, with values at their edges."""

from collections.abc import Iterable
from typing import Final

from tests.torture.model import ColumnType, literal

LARGE_TEXT: Final = tuple(
    f"(SELECT string_agg(md5((i * {n})::text), '') FROM generate_series(1, {length}) i)"
    for n, length in ((7, 90), (11, 300), (13, 700))
)
"""3 to 22 kB that cannot be compressed much."""

_EDGY_TEXT: Final = tuple(
    literal(text)
    for text in (
        "",
        " ",
        "tab\tnewline\nreturn\rend",
        "back\\slash",
        "\\N",
        "\\.",
        "\\U",
        "\\\n",
        "NULL",
        "'quoted' \"twice\"",
        "{a,b}",
        "b\bf\fv\v",
        "é€\U0001f418\U0010ffff",
        "".join(chr(plane << 16 | 0x4E00) for plane in range(17)),
        "\u0001\u007f\u0080\ufeff",
    )
)


def _type(
    sql: str,
    *values: str,
    numbered: str | None = None,
    large: Iterable[str] = (),
    hashable: bool = True,
) -> ColumnType:
    return ColumnType(sql, values, numbered, tuple(large), hashable and numbered is not None)


def _quoted(sql: str, *texts: str, numbered: str | None = None, hashable: bool = True) -> ColumnType:
    return _type(sql, *map(literal, texts), numbered=numbered, hashable=hashable)


INTEGER: Final = _quoted("integer", "-2147483648", "2147483647", "0", numbered="{n}")
TEXT: Final = _type("text", *_EDGY_TEXT, numbered="'k{n}'", large=LARGE_TEXT)

NUMBERS: Final = (
    INTEGER,
    _quoted("smallint", "-32768", "32767", numbered="{n}"),
    _quoted("bigint", "-9223372036854775808", "9223372036854775807", numbered="{n}"),
    _type(
        "numeric",
        *("'NaN'", "'Infinity'", "'-Infinity'", "1", "1.0", "1.00", "-0.0", "2.50", "2.5", "'1e-200'", "0.00"),
        "(repeat('9', 1000) || '.' || repeat('1', 1000))::numeric",
        numbered="{n}",
    ),
    _quoted("numeric(12,4)", "0.00005", "-99999999.9999", "NaN", numbered="{n}.5"),
    _quoted("real", "NaN", "-Infinity", "-0", "0", "1.17549435e-38", "3.4028235e+38", "0.1", numbered="{n}.1"),
    _type(
        "double precision",
        *("'NaN'", "'Infinity'", "'-0'", "'0'", "'4.9e-324'", "'1.7976931348623157e308'", "0.1::float8 + 0.2::float8"),
        numbered="{n} / 3.0::float8",
    ),
    _type("money", "12.34::numeric::money", "(-0.01)::numeric::money", numbered="{n}::money", hashable=False),
    _quoted("oid", "4294967295", "0", numbered="{n}"),
    _quoted("boolean", "true", "false"),
)

TEXTS: Final = (
    TEXT,
    _type('text COLLATE "C"', *_EDGY_TEXT, numbered="'K{n}'", large=LARGE_TEXT),
    _type("varchar", *_EDGY_TEXT, numbered="'v{n}'", large=LARGE_TEXT),
    _quoted("varchar(5)", "", "12345", "  a  ", numbered="'{n}'"),
    _quoted("character(4)", "", "a", " a", "1234", numbered="'{n}'"),
    _type('"char"', "'a'", "''", '(-56)::"char"', "'\\'"),
    _quoted("name", "", "x" * 63, "é" * 31, numbered="'n{n}'"),
    _type(
        "bytea",
        *("''", "decode('00', 'hex')", "'\\x5c4e5c2e0a0d09'"),
        "(SELECT string_agg(set_byte('\\x00', 0, i), '') FROM generate_series(0, 255) i)",
        numbered="decode(lpad('{n}', 8, '0'), 'hex')",
        large=[f"{text}::bytea" for text in LARGE_TEXT],
    ),
    _quoted("bit(5)", "10101", "00000"),
    _type("bit varying", "B''", "repeat('10', 500)::varbit", numbered="{n}::bit(16)::varbit", hashable=False),
    _quoted("uuid", "ffffffff-ffff-ffff-ffff-ffffffffffff", numbered="md5('{n}')::uuid"),
)

TIMES: Final = (
    _quoted("date", "4713-01-01 BC", "5874897-12-31", "infinity", "-infinity", numbered="date '2000-02-27' + {n}"),
    _quoted("time", "24:00:00", "00:00:00", "23:59:59.999999", numbered="time '00:00' + {n} * interval '1 s'"),
    _quoted(
        "timetz",
        "24:00:00-15:59",
        "00:00:00+15:59:59",
        "12:00:00.000001+05:30",
        numbered="timetz '00:00+01' + {n} * interval '1 s'",
    ),
    _quoted(
        "timestamp",
        *("infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "0001-01-01 BC"),
        numbered="timestamp '1999-12-31 23:59:59.5' + {n} * interval '1 day'",
    ),
    _quoted(
        "timestamptz",
        *("infinity", "-infinity", "4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"),
        numbered="timestamptz '2024-03-31 00:59:59+00' + {n} * interval '1 hour'",
    ),
    _quoted("timestamp(0)", "2000-01-01 00:00:00.5", numbered="timestamp '2000-01-01' + {n} * interval '1 day'"),
    _quoted(
        "interval",
        *(
            "1 mon",
            "30 days",
            "1 day",
            "24:00:00",
            "-1 years -2 mons +3 days -04:05:06.789",
            "-1 days -02:00:00",
            "178000000 years",
            "0",
        ),
        numbered="{n} * interval '1 hour'",
    ),
    _quoted("interval day to second(2)", "1 12:59:10.555", "-0.001"),
)

DOCUMENTS: Final = (
    _type(
        "json",
        *map(literal, ('{"a": 1, "a": 2}', " [1,   2]\n ", "null", r'"\u0000"', r'"\\N"', '""')),
        large=[f"to_json({text})" for text in LARGE_TEXT],
    ),
    _type(
        "jsonb",
        *map(literal, ('{"b": 1.0, "a": 1.00}', "1", "1.0", "null", r'"\t\n\\"', "[1e100, {}]", "{}")),
        numbered="to_jsonb({n})",
        large=[f"jsonb_build_object('k', {text})" for text in LARGE_TEXT],
    ),
    _quoted("jsonpath", "$.a[*] ? (@ > 1)", "strict $"),
    _quoted("tsvector", "a:1A b:2 'it''s':3", "", "'back\\\\slash'"),
    _quoted("tsquery", "a & !b <-> c:*A", ""),
)

PLACES: Final = (
    _quoted("inet", "10.1.2.3/8", "::ffff:1.2.3.4", "::/0", "0.0.0.0/0", numbered="inet '10.0.0.0' + {n}"),
    _quoted("cidr", "10.0.0.0/8", "::/0", numbered="(inet '10.0.0.0' + {n})::cidr"),
    _quoted("macaddr", "ff:ff:ff:ff:ff:ff", numbered="('08002b' || lpad('{n}', 6, '0'))::macaddr"),
    _quoted("macaddr8", "08:00:2b:01:02:03:04:05"),
    _quoted("point", "(NaN,Infinity)", "(1e-300,-0)", "(0.1,0.30000000000000004)"),
    _quoted("line", "{1,-1,0}"),
    _quoted("lseg", "[(0,0),(1,1)]"),
    _quoted("box", "(1,1),(0,0)"),
    _quoted("path", "((0,0),(1,1))", "[(0,0),(1,1)]"),
    _quoted("polygon", "((0,0),(1,1),(1,0))"),
    _quoted("circle", "<(0,0),1>"),
)

SYSTEM: Final = (
    _quoted("pg_lsn", "0/0", "FFFFFFFF/FFFFFFFF", numbered="'0/{n}'"),
    _quoted("xid8", "18446744073709551615", numbered="'{n}'", hashable=False),
    _quoted("xid", "4294967295", "0"),
    _quoted("pg_snapshot", "10:20:10,14"),
    _quoted("tid", "(4294967294,65535)"),
    _quoted("regclass", "pg_class", "-", "99999"),
    _quoted("regtype", "integer", "timestamp with time zone[]", "-"),
    _quoted("regprocedure", "abs(integer)", "-"),
    _quoted("regoperator", "+(integer,integer)"),
    _quoted("regnamespace", "pg_catalog"),
    _quoted("regrole", "pg_monitor"),
    _quoted("regconfig", "english"),
    _quoted("regcollation", '"C"'),
    _quoted("oidvector", "1 2 3", ""),
    _quoted("aclitem", "pg_monitor=r/pg_monitor"),
)

ARRAYS: Final = (
    _quoted("integer[]", "{}", "[0:1]={1,2}", "{{1,NULL},{3,4}}", "[-1:0][2:3]={{1,2},{3,4}}", numbered="ARRAY[{n}]"),
    _type(
        "text[]",
        *map(literal, ("{}", r'{"",NULL,"NULL","a\"b\\c","{}",",","\\N"}', "{{a,b},{c,d}}", '{"tab\t","line\n"}')),
        numbered="ARRAY['{n}']",
        large=[f"ARRAY[{text}, NULL]" for text in LARGE_TEXT],
    ),
    _quoted("numeric[]", "{1.0,1.00}", "{1.00,1.0}", "{NaN,Infinity}", numbered="ARRAY[{n}::numeric]"),
    _quoted("box[]", "{(1,1),(0,0);(2,2),(1,1)}"),
    _quoted("json[]", r'{"{\"a\": 1}",NULL}'),
    _quoted("bytea[]", r'{"\\x00","\\x5c"}'),
    _quoted("timestamptz[]", "{infinity,NULL}", '{"2000-01-01 00:00:00+00"}'),
)

RANGES: Final = (
    _quoted("int4range", "empty", "[1,5)", "(,)", "[3,]", numbered="int4range({n}, {n}, '[]')"),
    _quoted("numrange", "[1.0,1.00]", "[1.00,1.0]", "(,infinity)", numbered="numrange({n}, {n} + 1)"),
    _quoted("daterange", "[-infinity,infinity]", "empty", "[2020-01-01,)"),
    _quoted("tsrange", '["2020-01-01 00:00:00",infinity)', "(,)"),
    _quoted("tstzrange", '["2020-01-01 00:00:00+00","2020-01-02 00:00:00+00")'),
    _quoted("int8range", "[9223372036854775806,9223372036854775807)"),
    _quoted("int4multirange", "{}", "{[1,2),[5,)}", "{(,)}", numbered="int4multirange(int4range({n}, {n}, '[]'))"),
    _quoted("nummultirange", "{[1.0,1.5],[2.00,3.0)}"),
    _quoted("tstzmultirange", '{["2020-01-01 00:00:00+00","2020-01-02 00:00:00+00")}'),
)

BUILT_IN: Final = (*NUMBERS, *TEXTS, *TIMES, *DOCUMENTS, *PLACES, *SYSTEM, *ARRAYS, *RANGES)
KEYS: Final = tuple(type_ for type_ in BUILT_IN if type_.numbered is not None)


EXTENSION_SCHEMA: Final = "bundled extensions"
"""Not on any search_path: operators of these types are found only by who looks for them."""

EXTENSIONS: Final = ("citext", "hstore", "ltree", "cube", "seg", "isn")


def extension_types(schema: str) -> tuple[ColumnType, ...]:
    """The types of those extensions, installed in a schema (its quoted name)."""

    def type_(name: str, *texts: str, numbered: str | None = None) -> ColumnType:
        return ColumnType(f"{schema}.{name}", tuple(map(literal, texts)), numbered, (), numbered is not None)

    return (
        type_("citext", "", "ABC", "abc", "Abc", "ÄÖ", "äö", numbered="'Key{n}'"),
        type_("citext[]", "{A,a}", "{}"),
        type_("hstore", "", "a=>1, b=>NULL", '"q\\"uo"=>"t\\\\e", ""=>""', numbered="'k=>{n}'"),
        type_("ltree", "", "a.b.c", "Top.Sub_1", numbered="'n{n}'"),
        type_("ltree[]", "{a.b,c}"),
        type_("lquery", "a.*{1,2}.!b"),
        type_("cube", "(1,2),(3,4)", "(0.1)"),
        type_("seg", "1.0 .. 2.00", "~5", ">1"),
        type_("isbn", "978-0-393-04002-9"),
    )
