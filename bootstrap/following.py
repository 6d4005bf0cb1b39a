"""Following the source's deploys before the rounds: publications, columns, labels, and what a new dump brings."""

from collections.abc import Set

import structlog

from bootstrap.attributes import looser_columns
from bootstrap.entries import Plan
from bootstrap.evolve import add, look, loosen, settle
from bootstrap.refresh import FOLLOWED_STEP, make_needed
from bootstrap.roots import make_partitions
from bootstrap.schema import STEP as SCHEMA_STEP
from bootstrap.schema import app_schemas
from bootstrap.trees import detach_partitions, rename_parents
from bootstrap.work import Work
from replicator import control
from replicator.catalog import source_tables
from replicator.errors import Side, SourceError
from replicator.model import TableName, TableState
from replicator.postgres import reporting
from replicator.source.replanning import UNPUBLISHED_STEP, adjust_publications, reasons_of

log = structlog.get_logger(__name__)


async def follow(work: Work, app: str) -> Plan | None:
    """Take over what was changed on the source since the last time; the plan of a new dump, if that was needed."""
    published = await work.published(work.source)
    steps = await control.read_steps(work.target)
    copies = work.makes_schema and SCHEMA_STEP in steps
    plan = None
    if copies and steps.get(FOLLOWED_STEP, {}).get("fingerprint") != app:
        await rename_parents(work.source, work.target, work.epoch)
        await detach_partitions(work.source, work.target, work.epoch)
        plan = await make_needed(work.settings, work.source, work.target, work.epoch)
        schemas = await app_schemas(work.source, work.settings)
        await loosen(work.target, work.epoch, await looser_columns(work.source, work.target, schemas))
    deploy = await look(work.settings, work.source, work.target, published, work.migration.publications)
    if work.makes_schema and (deploy.labels or deploy.columns):
        await add(work.target, work.epoch, deploy)
        deploy = await look(work.settings, work.source, work.target, published, work.migration.publications)
    await settle(work.target, work.epoch, deploy)
    if copies:  # whatever has been followed: a root may have got its new name only now
        await _come_again(work, await make_partitions(work.source, work.target, work.epoch, published))
    return plan


async def _come_again(work: Work, roots: Set[TableName]) -> None:
    if known := sorted((await control.read_tables(work.target)).keys() & roots):
        log.info("partitions have other places: their roots come again", tables=[str(root) for root in known])
        async with control.under_epoch(work.target, work.epoch):
            await control.set_table_states(work.target, known, TableState.COPYING)


async def publish(work: Work) -> None:
    """Publish what the app has now, before the round that copies what is new; tell once of what cannot be."""
    with reporting(Side.SOURCE, "publishing tables", SourceError):
        tables = await source_tables(work.source, [*work.settings.exclude_schemas, control.SCHEMA])
        adjusted = await adjust_publications(work.source, work.migration.publications, tables, work.settings)
    for event, names in (
        ("new tables are published", adjusted.added),
        ("tables have lost their key: REPLICA IDENTITY FULL from now on", adjusted.made_full),
        ("tables were taken out of the publications, so that the app can go on writing to them", adjusted.removed),
    ):
        if names:
            log.info(event, tables=[str(name) for name in names])
    reasons = reasons_of(adjusted.refused)
    told = (await control.read_steps(work.target)).get(UNPUBLISHED_STEP, {})
    if reasons != told:
        await control.record_step(work.target, UNPUBLISHED_STEP, reasons)
    if new := {name: reason for name, reason in reasons.items() if name not in told}:
        log.warning("tables are not replicated: the cutover will refuse", tables=new)
