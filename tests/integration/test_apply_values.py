"""Law 7: values of any type arrive as the source printed them, and keys and images of any type find their rows."""

from replicator.model import UNCHANGED, ReplicaIdentity
from tests.fixtures.applying import Applier
from tests.fixtures.changes import Value, delete, insert, row, update

LONG = "long value " * 1000

VALUES = [
    ("float8", "-0"),
    ("float8", "NaN"),
    ("float4", "1.1754944e-38"),
    ("numeric(12,3)", "0.100"),
    ("numeric", "Infinity"),
    ("money", "-$1,234.50"),
    ("timestamptz", "-infinity"),
    ("timestamp(3)", "0044-03-15 12:00:00.123 BC"),
    ("interval", "-1 years -2 mons +3 days -04:05:06.789"),
    ("bytea", r"\x00ff5c09"),
    ("char(5)", "a    "),
    ("varchar(3)", "\\\t\n"),
    ('"char"', "x"),
    ("bit(3)", "101"),
    ("json", '{"a" :  1, "a": 2}'),
    ("point", "(1,-0)"),
    ("int[]", "[0:1]={1,NULL}"),
    ("text[]", r'{"a\\b","NULL",NULL,""}'),
    ("numrange", "[1.0,2.00)"),
    ("int4multirange", "{[1,3),[5,9)}"),
    ("tsvector", "'a b':1A 'c'"),
    ("regclass", "pg_class"),
    ("feeling", "so-so"),
    ("feeling[]", "{so-so,NULL,good}"),
    ("pair", '(1,"a ""b"" \\\\ c")'),
    ("pair[]", r'{"(1,\"a b\")","(,)"}'),
    ("short", "abc"),
]
TYPES = (
    "CREATE TYPE feeling AS ENUM ('good', 'so-so', 'bad'); CREATE TYPE pair AS (a int, b text);"
    "CREATE DOMAIN word AS varchar(3) CHECK (VALUE <> ''); CREATE DOMAIN short AS word NOT NULL"
)


KEYS = [
    ("text", "a", "A", "\t\\N"),
    ('text COLLATE "C"', "a", "B", "b"),
    ("char(3)", "a  ", "b  ", "ab "),
    ("numeric", "1.0", "2.00", "3.000"),
    ("uuid", *(f"00000000-0000-0000-0000-00000000000{n}" for n in (1, 2, 3))),
    ("timestamptz", "infinity", "0044-03-15 12:00:00+00 BC", "2024-01-01 00:00:00.000001+00"),
    ("float8", "NaN", "0", "1e-300"),
    ("bytea", r"\x00", r"\x5c", r"\x"),
    ("int4range", "[1,2)", "empty", "(,)"),
    ("int[]", "{1}", "{}", "{NULL}"),
    ("feeling", "good", "so-so", "bad"),
    ("pair", "(1,a)", "(2,)", r'(,"b ""c""")'),
    ("short", "a", "b", "c"),
    ("name", "a", "b", "c"),
    ('"char"', "a", "b", "c"),
    ("inet", "10.0.0.0/8", "::1", "10.0.0.1"),
]


async def test_a_value_of_any_type_arrives_as_it_was_printed(applier: Applier) -> None:
    applier.execute(TYPES)
    columns = ", ".join(f"a{n} {kind}, b{n} {kind}" for n, (kind, _) in enumerate(VALUES))
    applier.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    t = await applier.relation("t")
    values = [value for _, value in VALUES for _ in range(2)]
    nothing: list[Value] = [None if kind != "short" else "" for kind, _ in VALUES for _ in range(2)]

    await applier.apply(insert(t, "1", *values), insert(t, "2", *values))
    await applier.apply(update(t, "2", *values), update(t, "3", *values, key=["1", *nothing]))

    assert await applier.printed("TABLE t ORDER BY id") == [row("2", *values), row("3", *values)]


async def test_a_value_of_any_type_arrives_in_a_table_of_its_own(applier: Applier) -> None:
    """Beside other types, one with a cast of its own from text keeps rows from sharing a statement."""
    applier.execute(TYPES)
    tables = []
    for n, (kind, _) in enumerate(VALUES):
        applier.execute(f"CREATE TABLE t{n} (id int PRIMARY KEY, a {kind})")
        tables.append(await applier.relation(f"t{n}"))

    for t, (kind, value) in zip(tables, VALUES, strict=True):
        await applier.apply(insert(t, "1", value), insert(t, "2", value))
        await applier.apply(update(t, "1", value), delete(t, key=["2", None]))
        assert await applier.printed(f"TABLE {t.table.name}") == [row("1", value)], kind

    cursor = await applier.target._connection.execute(
        "SELECT count(*) > 0 FROM pg_prepared_statements WHERE statement LIKE '%string_to_array%'"
    )
    assert await cursor.fetchone() == (applier.joined,)


async def test_a_cast_of_the_users_own_changes_nothing(applier: Applier) -> None:
    """Given a cast from text that does not do what the type's input function does, here and below a domain."""
    applier.execute(
        "CREATE TYPE feeling AS ENUM ('good', 'bad');"
        "CREATE FUNCTION dampened(text) RETURNS feeling RETURN CASE WHEN $1 > '' THEN 'bad' END::feeling;"
        "CREATE CAST (text AS feeling) WITH FUNCTION dampened; CREATE DOMAIN mood AS feeling;"
        "CREATE TABLE t (id int PRIMARY KEY, a feeling); CREATE TABLE d (id int PRIMARY KEY, a mood)"
    )
    t, d = await applier.relation("t"), await applier.relation("d")

    await applier.apply(insert(t, "1", "good"), insert(d, "1", "good"))

    assert applier.rows("SELECT a::text FROM t UNION ALL SELECT a::text FROM d") == [("good",), ("good",)]


async def test_a_key_of_any_type_finds_its_row(applier: Applier) -> None:
    applier.execute(TYPES)
    tables = []
    for n, (kind, *_) in enumerate(KEYS):
        applier.execute(f"CREATE TABLE t{n} (k {kind} PRIMARY KEY, a int)")
        tables.append(await applier.relation(f"t{n}"))

    for t, (kind, one, two, three) in zip(tables, KEYS, strict=True):
        await applier.apply(insert(t, one, "1"), insert(t, two, "2"))
        await applier.apply(update(t, one, "10"), delete(t, key=[two, None]))
        assert await applier.printed(f"TABLE {t.table.name}") == [row(one, "10")], kind

        await applier.apply(update(t, three, "11", key=[one, None]))
        assert await applier.printed(f"TABLE {t.table.name}") == [row(three, "11")], kind


async def test_a_domain_that_is_not_null_takes_rows_that_lack_its_value(applier: Applier) -> None:
    applier.execute("CREATE DOMAIN word AS text COLLATE \"C\" NOT NULL CHECK (VALUE <> '')")
    applier.execute("CREATE DOMAIN words AS word[] NOT NULL")
    applier.execute("CREATE TABLE t (id word PRIMARY KEY, big word, many words, n int)")
    applier.execute("INSERT INTO t SELECT n, %s, ARRAY[%s], n FROM generate_series(1, 4) n", [LONG, LONG])
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1", UNCHANGED, UNCHANGED, "10"),
        update(t, "5", UNCHANGED, UNCHANGED, "20", key=["2", None, None, None]),
        delete(t, key=["3", None, None, None]),
        update(t, "4", "new", "{new}", "40"),
    )

    assert applier.rows("SELECT id, big = %s, many[1] = %s, n FROM t ORDER BY id".replace("%s", f"'{LONG}'")) == [
        ("1", True, True, 10),
        ("4", False, False, 40),
        ("5", True, True, 20),
    ]


async def test_keys_that_are_equal_but_print_differently_are_the_same_row(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (k numeric PRIMARY KEY, a int); INSERT INTO t VALUES (1.0, 1), (2, 2)")
    t = await applier.relation("t")

    await applier.apply(
        update(t, "1.00", "10", key=["1.0", None]),
        delete(t, key=["2", None]),
        insert(t, "2.000", "20"),
        update(t, "1.000", "11", key=["1.00", None]),
    )

    assert applier.rows("SELECT k::text, a FROM t ORDER BY k") == [("1.000", 11), ("2.000", 20)]


# --- tables without a key ---------------------------------------------------------------------------------------------

KEYLESS = "CREATE TABLE t (doc json, place point, word text, tags text[])"


async def test_a_keyless_row_of_any_type_is_found_by_its_image(plain_applier: Applier) -> None:
    plain_applier.execute(TYPES)
    tables = []
    for n, (kind, _) in enumerate(VALUES):
        plain_applier.execute(f"CREATE TABLE t{n} (a {kind}, b int)")
        tables.append(await plain_applier.relation(f"t{n}", identity=ReplicaIdentity.FULL))

    await plain_applier.apply(
        *(insert(t, value, b) for t, (_, value) in zip(tables, VALUES, strict=True) for b in (None, None, "1"))
    )
    for t, (kind, value) in zip(tables, VALUES, strict=True):
        await plain_applier.apply(update(t, value, "2", old=[value, None]), delete(t, old=[value, "1"]))

        expected = [row(value, "2"), row(value, None)]
        assert await plain_applier.printed(f"TABLE {t.table.name} ORDER BY b") == expected, kind


async def test_keyless_changes_change_exactly_one_row_each(applier: Applier) -> None:
    applier.execute(KEYLESS)
    applier.execute("INSERT INTO t SELECT '{}', '(0,0)', NULL, '{}' FROM generate_series(1, 5)")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)
    same: list[Value] = ["{}", "(0,0)", None, "{}"]

    await applier.apply(
        delete(t, old=same),
        update(t, "{}", "(0,0)", "", "{}", old=same),
        delete(t, old=same),
        insert(t, "[]", None, None, None),
        insert(t, "[]", None, None, None),
    )

    assert sorted(await applier.printed("TABLE t")) == sorted(
        [row("[]", None, None, None)] * 2 + [row(*same)] * 2 + [row("{}", "(0,0)", "", "{}")]
    )


async def test_keyless_images_that_are_equal_but_print_differently_are_told_apart(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (n numeric, f float8)")
    applier.execute("INSERT INTO t VALUES (1.0, 0), (1.00, 0), (1.0, '-0'), (NULL, NULL)")
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)

    await applier.apply(delete(t, old=["1.00", "0"]), update(t, "2", None, old=["1.0", "-0"]))

    assert await applier.printed("TABLE t ORDER BY n") == [row("1.0", "0"), row("2", None), row(None, None)]


async def test_a_keyless_value_that_was_not_sent_comes_from_the_old_row(applier: Applier) -> None:
    applier.execute("CREATE TABLE t (big text, a int)")
    applier.execute("INSERT INTO t VALUES (%s, 1), (%s, 1)", [LONG, LONG])
    t = await applier.relation("t", identity=ReplicaIdentity.FULL)

    await applier.apply(update(t, UNCHANGED, "2", old=[LONG, "1"]), update(t, UNCHANGED, "3", old=[LONG, "2"]))

    assert applier.rows("SELECT length(big), a FROM t ORDER BY a") == [(len(LONG), 1), (len(LONG), 3)]


async def test_many_equal_keyless_rows(plain_applier: Applier) -> None:
    plain_applier.execute("CREATE TABLE t (a int)")
    t = await plain_applier.relation("t", identity=ReplicaIdentity.FULL)

    await plain_applier.apply(*[insert(t, "1")] * 500)
    await plain_applier.apply(*[delete(t, old=["1"])] * 499)

    assert plain_applier.rows("SELECT * FROM t") == [(1,)]
