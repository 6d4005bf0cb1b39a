"""The SQL that applies a batch to one table: pure, from what the target's catalog says of the table.

Updates, deletes and moves go through a staging table: one COPY, then one statement a group. Its columns are named by
position (``c1`` …, the origin key ``o1`` …, the group ``g``), so that no column of the user's can clash with ours, and
have the base type of a domain, because a domain's constraints must not see the NULLs of what a row does not carry.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

from replicator.model import TableName

_MAX_STAGED: Final = 400
"""Columns of the widest table that is staged. A table can have 1,600, and so many values can fill a page, in which the
whole row must lie, by themselves: there is no room for its key beside them (documentation: "PostgreSQL Limits")."""

_MAX_IN_LINES: Final = 8
"""Columns of the widest table whose rows come as one text: an array's value is found by counting from its first.
Measured, of the target's processor, as one text and with a statement each: 4 and 6 µs a row of 3 columns, 13 and 11 of
11 columns, 110 and 30 of 41."""

DELETE_GROUP: Final = 0
"""The group ``g`` of staged rows that hold only a key to delete; updates and moves have groups from 1 on."""


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """A column on the target; ``type`` is its base type as SQL, with a collation if it is not the type's.

    ``parameter_type`` is the same without modifiers: a cast to varchar(9) cuts a value off, an assignment refuses it.
    ``casts_as_input``: a cast from text does what the type's input function does; some types have a cast of their own.
    ``equality_schema`` is where the type's ``=`` lies: an extension's need not be on the search_path.
    """

    name: str
    type: str
    parameter_type: str
    identity_always: bool
    casts_as_input: bool = True
    equality_schema: str = "pg_catalog"


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table on the target and the columns that the source publishes, in the order of the source's relation.

    ``key`` is the positions of the key columns, or None. ``partitioned`` tells a root from a table of its own.
    ``has_other_unique`` says whether a unique or exclusion constraint besides the key may collide inside a batch.
    ``local`` are the columns that only the target has and does not compute itself; their positions come after those of
    ``columns``. A row that is deleted and inserted again to update it keeps their values.
    """

    name: TableName
    columns: tuple[TargetColumn, ...]
    key: tuple[int, ...] | None
    partitioned: bool
    has_other_unique: bool
    local: tuple[TargetColumn, ...] = ()

    @property
    def all_columns(self) -> tuple[TargetColumn, ...]:
        """The published columns, then the local ones."""
        return self.columns + self.local

    @property
    def local_positions(self) -> tuple[int, ...]:
        """Positions of the local columns in ``all_columns``."""
        return tuple(range(len(self.columns), len(self.all_columns)))

    @property
    def settable(self) -> tuple[int, ...]:
        """Positions of the columns that an UPDATE of a row that keeps its key sets."""
        key = self.key or ()
        return tuple(i for i in range(len(self.columns)) if i not in key)

    @property
    def always_replaces(self) -> bool:
        """Whether an update must delete and insert: UPDATE cannot set a GENERATED ALWAYS identity column."""
        return any(self.columns[i].identity_always for i in self.settable)

    @property
    def takes_lines(self) -> bool:
        """Whether its rows can come as one text."""
        return 0 < len(self.columns) <= _MAX_IN_LINES and all(column.casts_as_input for column in self.columns)

    @property
    def can_stage(self) -> bool:
        """Whether a staging table has room for the group and the origin key beside any row of the table."""
        return len(self.all_columns) <= _MAX_STAGED


class Statements:
    """The statements of one table; ``stage`` is the name of its staging table in the session."""

    def __init__(self, table: TargetTable, stage: str) -> None:
        self.table = table
        self.stage = stage
        self._stage = sql.Identifier("pg_temp", stage)
        relation = sql.Identifier(table.name.schema, table.name.name)
        # an inheritance parent's statements must leave its children alone; a partitioned root has nothing but them
        self._relation = relation if table.partitioned else sql.SQL("ONLY {}").format(relation)
        self._insertable = relation
        self._key = table.key or ()

    # --- staging ------------------------------------------------------------------------------------------------------

    def create_stage(self) -> sql.Composed:
        """Make the staging table of this session; its rows last until the end of a transaction."""
        columns = [sql.SQL("{} integer").format(sql.Identifier("g"))]
        columns += [
            sql.SQL("{} {}").format(_origin(n), sql.SQL(self._type(position))) for n, position in enumerate(self._key)
        ]
        columns += [
            sql.SQL("{} {}").format(_column(position), sql.SQL(self._type(position)))
            for position in range(len(self.table.all_columns))
        ]
        return sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DELETE ROWS").format(
            sql.Identifier(self.stage), sql.SQL(", ").join(columns)
        )

    def copy_to_stage(self) -> sql.Composed:
        """COPY whose lines are: group, origin key, every published column."""
        return self._copy_to_stage([_column(i) for i in range(len(self.table.columns))])

    def copy_keys_to_stage(self) -> sql.Composed:
        """COPY whose lines are: group, origin key."""
        return self._copy_to_stage([])

    def _copy_to_stage(self, columns: Iterable[sql.Identifier]) -> sql.Composed:
        names = [sql.Identifier("g"), *(_origin(n) for n in range(len(self._key))), *columns]
        return sql.SQL("COPY {} ({}) FROM STDIN").format(self._stage, sql.SQL(", ").join(names))

    def clear_stage(self) -> sql.Composed:
        """Empty the staging table within a transaction."""
        return sql.SQL("TRUNCATE {}").format(self._stage)

    # --- set-based ----------------------------------------------------------------------------------------------------

    def copy_inserts(self) -> sql.Composed:
        """COPY straight into the table; its lines are rows."""
        if not self.table.columns:
            return sql.SQL("COPY {} FROM STDIN").format(self._insertable)
        return sql.SQL("COPY {} ({}) FROM STDIN").format(self._insertable, self._names())

    def delete_staged(self, groups: Iterable[int]) -> sql.Composed:
        """Delete the rows whose origin keys are staged in these groups."""
        return sql.SQL("DELETE FROM {} t USING {} s WHERE s.g = ANY ({}) AND {}").format(
            self._relation, self._stage, sql.Literal(list(groups)), self._matches_origin()
        )

    def update_staged(self, group: int, unchanged: Sequence[int]) -> sql.Composed:
        """Update the rows of a group, all columns but the key and the ``unchanged``; or count them if none is left."""
        columns = [i for i in self.table.settable if i not in unchanged]
        if not columns:
            return sql.SQL("SELECT 1 FROM {} t, {} s WHERE s.g = {} AND {}").format(
                self._relation, self._stage, sql.Literal(group), self._matches_origin()
            )
        assignments = sql.SQL(", ").join(sql.SQL("{} = s.{}").format(self._name(i), _column(i)) for i in columns)
        return sql.SQL("UPDATE {} t SET {} FROM {} s WHERE s.g = {} AND {}").format(
            self._relation, assignments, self._stage, sql.Literal(group), self._matches_origin()
        )

    def fill_staged(self, group: int, positions: Sequence[int]) -> sql.Composed:
        """Take the values at these positions, which were not sent, from the rows that are about to be deleted."""
        assignments = sql.SQL(", ").join(sql.SQL("{} = t.{}").format(_column(i), self._name(i)) for i in positions)
        return sql.SQL("UPDATE {} s SET {} FROM {} t WHERE s.g = {} AND {}").format(
            self._stage, assignments, self._relation, sql.Literal(group), self._matches_origin()
        )

    def insert_staged(self, groups: Iterable[int]) -> sql.Composed:
        """Insert the final images that are staged in these groups, with the local values that were there."""
        places = range(len(self.table.all_columns))
        columns = sql.SQL(", ").join(_column(i) for i in places)
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} WHERE g = ANY ({})").format(
            self._insertable, self._names(places), columns, self._stage, sql.Literal(list(groups))
        )

    def delete_staged_images(self) -> sql.Composed:
        """For a table without a key: delete ``g`` copies of each staged row image.

        Images are compared as the text of the whole row: equality would miss NULLs, find -0 equal to 0, and does not
        exist for json, xml or point. Identical copies cannot be told apart, so which of them goes does not matter.
        """
        return sql.SQL(
            "DELETE FROM {relation} t USING ("
            "SELECT t.tableoid, t.ctid, s.g, row_number() OVER (PARTITION BY s.ctid) AS n "
            "FROM {relation} t JOIN {stage} s ON ROW({names})::text = ROW({columns})::text) d "
            "WHERE d.n <= d.g AND t.tableoid = d.tableoid AND t.ctid = d.ctid"
        ).format(
            relation=self._relation,
            stage=self._stage,
            names=sql.SQL(", ").join(sql.SQL("t.{}").format(self._name(i)) for i in range(len(self.table.columns))),
            columns=sql.SQL(", ").join(sql.SQL("s.{}").format(_column(i)) for i in range(len(self.table.columns))),
        )

    # --- several rows as one text: lines of COPY text in which nothing is escaped but NULL ----------------------------

    def insert_lines(self) -> sql.Composed:
        """Parameter: rows."""
        places = range(len(self.table.columns))
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}").format(
            self._insertable, self._names(), sql.SQL(", ").join(self._from_line(i, i) for i in places), _LINES
        )

    def update_lines(self, unchanged: Sequence[int]) -> sql.Composed:
        """Parameter: rows, whose keys stay and whose values at the positions ``unchanged`` were not sent."""
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(self._name(i), self._from_line(i, i)) for i in self.updated_positions(unchanged)
        )
        return sql.SQL("UPDATE {} t SET {} FROM {} WHERE {}").format(
            self._relation, assignments, _LINES, self._matches_line(self._key)
        )

    def delete_lines(self) -> sql.Composed:
        """Parameter: keys."""
        places = range(len(self._key))
        return sql.SQL("DELETE FROM {} t USING {} WHERE {}").format(self._relation, _LINES, self._matches_line(places))

    # --- row by row, for small tables, on a raw cursor ----------------------------------------------------------------

    def insert_row(self, *, with_local: bool = False) -> sql.Composed:
        """Parameters: every published column, then every local one, or none of these."""
        places = range(len(self.table.all_columns if with_local else self.table.columns))
        if not places:
            return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self._insertable)
        values = sql.SQL(", ").join(self._value(n, i) for n, i in enumerate(places))
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            self._insertable, self._names(places), values
        )

    def update_row(self, unchanged: Sequence[int]) -> sql.Composed:
        """Parameters: ``updated_positions(unchanged)``, then the key. With nothing to set, the row is only counted."""
        columns = self.updated_positions(unchanged)
        if not columns:
            return sql.SQL("SELECT 1 FROM {} t WHERE {}").format(self._relation, self._matches_parameters(first=0))
        assignments = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(self._name(i), self._value(n, i)) for n, i in enumerate(columns)
        )
        return sql.SQL("UPDATE {} t SET {} WHERE {}").format(
            self._relation, assignments, self._matches_parameters(first=len(columns))
        )

    def updated_positions(self, unchanged: Sequence[int]) -> list[int]:
        """The positions of the columns that an update sets."""
        return [i for i in self.table.settable if i not in unchanged]

    def delete_row(self, returning: Sequence[int] = ()) -> sql.Composed:
        """Parameters: the key. Returns the values at the positions ``returning``."""
        delete = sql.SQL("DELETE FROM {} t WHERE {}").format(self._relation, self._matches_parameters(first=0))
        if not returning:
            return delete
        columns = sql.SQL(", ").join(sql.SQL("t.{}").format(self._name(i)) for i in returning)
        return sql.SQL("{} RETURNING {}").format(delete, columns)

    def delete_image(self, count: int) -> sql.Composed:
        """For a table without a key: delete ``count`` copies of a row. Parameters: every column."""
        places = range(len(self.table.columns))
        return sql.SQL(
            "DELETE FROM {relation} t USING (SELECT t.tableoid, t.ctid FROM {relation} t"
            " WHERE ROW({names})::text = ROW({values})::text LIMIT {count}) d"
            " WHERE t.tableoid = d.tableoid AND t.ctid = d.ctid"
        ).format(
            relation=self._relation,
            names=sql.SQL(", ").join(sql.SQL("t.{}").format(self._name(i)) for i in places),
            values=sql.SQL(", ").join(sql.SQL("{}::{}").format(_parameter(i), sql.SQL(self._type(i))) for i in places),
            count=sql.Literal(count),
        )

    # --- parts --------------------------------------------------------------------------------------------------------

    def _name(self, position: int) -> sql.Identifier:
        return sql.Identifier(self.table.all_columns[position].name)

    def _names(self, places: Iterable[int] | None = None) -> sql.Composed:
        """The columns at these places, by default all that are published."""
        return sql.SQL(", ").join(map(self._name, range(len(self.table.columns)) if places is None else places))

    def _type(self, position: int) -> str:
        return self.table.all_columns[position].type

    def _value(self, n: int, position: int) -> sql.Composed:
        """A parameter for a column, with its type in the text: a statement keeps the types that it was prepared with.

        After a column has become a timestamp, a date would take the time of day away.
        """
        return sql.SQL("{}::{}").format(_parameter(n), sql.SQL(self.table.all_columns[position].parameter_type))

    def _from_line(self, place: int, position: int) -> sql.Composed:
        return sql.SQL("l.v[{}]::{}").format(place + 1, sql.SQL(self.table.all_columns[position].parameter_type))

    def _matches_line(self, places: Iterable[int]) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("t.{} {} l.v[{}]::{}").format(
                self._name(position), self._equals(position), place + 1, sql.SQL(self._type(position))
            )
            for place, position in zip(places, self._key, strict=True)
        )

    def _matches_origin(self) -> sql.Composed:
        return sql.SQL(" AND ").join(
            sql.SQL("t.{} {} s.{}").format(self._name(position), self._equals(position), _origin(n))
            for n, position in enumerate(self._key)
        )

    def _matches_parameters(self, first: int) -> sql.Composed:
        """The key's types are given, because a composite is no type that ``=`` would find for a parameter."""
        return sql.SQL(" AND ").join(
            sql.SQL("t.{} {} {}::{}").format(
                self._name(position), self._equals(position), _parameter(n), sql.SQL(self._type(position))
            )
            for n, position in enumerate(self._key, first)
        )

    def _equals(self, position: int) -> sql.Composable:
        schema = self.table.columns[position].equality_schema
        return sql.SQL("=") if schema == "pg_catalog" else sql.SQL("OPERATOR({}.=)").format(sql.Identifier(schema))


def truncate(tables: Iterable[TargetTable], *, restart_identity: bool) -> sql.Composed:
    """TRUNCATE of exactly these tables in one statement, never CASCADE: the source has listed what cascaded."""
    names = sql.SQL(", ").join(
        sql.SQL("{}{}").format(
            sql.SQL("" if table.partitioned else "ONLY "), sql.Identifier(table.name.schema, table.name.name)
        )
        for table in tables
    )
    return sql.SQL("TRUNCATE {}{}").format(names, sql.SQL(" RESTART IDENTITY" if restart_identity else ""))


_LINES: Final = sql.SQL(
    "(SELECT string_to_array(line, E'\\t', E'\\\\N') AS v FROM unnest(string_to_array($1::text, E'\\n')) line) l"
)
"""Rows as arrays of their values as text. Not string_to_table: nobody could tell the planner that there are few."""


def _parameter(n: int) -> sql.SQL:
    """PostgreSQL's own placeholder: the driver's %s would have to be told apart from a % in a column's name."""
    return sql.SQL(f"${n + 1}")


def _column(position: int) -> sql.Identifier:
    return sql.Identifier(f"c{position + 1}")


def _origin(n: int) -> sql.Identifier:
    return sql.Identifier(f"o{n + 1}")
