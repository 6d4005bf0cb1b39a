"""Reading pg_dump's foreign keys and writing them in two steps."""

import pytest

from replicator.cutover.foreign_keys import ForeignKey, parse_foreign_key
from replicator.model import TableName

_PLAIN = """ALTER TABLE ONLY public.histories
    ADD CONSTRAINT histories_session_id_fkey FOREIGN KEY (session_id) REFERENCES public.sessions(id);"""


def _parsed(statement: str) -> ForeignKey:
    key = parse_foreign_key(statement)
    assert key is not None
    return key


def test_a_foreign_key_is_added_unchecked_first_and_validated_later() -> None:
    key = _parsed(_PLAIN)
    assert key.add_unchecked() == (
        "ALTER TABLE public.histories ADD CONSTRAINT histories_session_id_fkey"
        " FOREIGN KEY (session_id) REFERENCES public.sessions(id) NOT VALID"
    )
    assert key.validate() == "ALTER TABLE public.histories VALIDATE CONSTRAINT histories_session_id_fkey"
    assert key.checked


def test_one_that_the_source_never_checked_stays_unchecked() -> None:
    assert not _parsed(_PLAIN.replace(";", " NOT VALID;")).checked
    assert not _parsed(_PLAIN.replace(";", " NOT ENFORCED;")).checked


def test_quoted_names_and_options_are_kept() -> None:
    key = _parsed(
        'ALTER TABLE "My ""Schema"""."A.b"\n    ADD CONSTRAINT "Fk 1" FOREIGN KEY (a, b) REFERENCES public."X"(c, d)'
        " MATCH FULL ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;"
    )
    assert key.table == '"My ""Schema"""."A.b"'
    assert key.unquoted_name == "Fk 1"
    assert key.add_unchecked().endswith("ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED NOT VALID")


def test_each_leaf_of_a_partitioned_table_gets_its_own() -> None:
    statements = _parsed(_PLAIN).add_unchecked_to([TableName("public", "a"), TableName("public", "B")])
    assert statements.split(";\n") == [
        'ALTER TABLE ONLY "public"."a" ADD CONSTRAINT histories_session_id_fkey'
        " FOREIGN KEY (session_id) REFERENCES public.sessions(id) NOT VALID",
        'ALTER TABLE ONLY "public"."B" ADD CONSTRAINT histories_session_id_fkey'
        " FOREIGN KEY (session_id) REFERENCES public.sessions(id) NOT VALID",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE ONLY public.a ADD CONSTRAINT a_pkey PRIMARY KEY (id);",
        "ALTER TABLE public.a ENABLE ROW LEVEL SECURITY;",
        "CREATE TRIGGER t BEFORE INSERT ON public.a FOR EACH ROW EXECUTE FUNCTION public.f();",
    ],
)
def test_anything_else_is_no_foreign_key(statement: str) -> None:
    assert parse_foreign_key(statement) is None
