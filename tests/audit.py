"""`make audit`: what the world knows of weaknesses in the locked requirements, asked of OSV (https://osv.dev).

One request, with names and versions. Exit codes: 0 nothing is known, 1 something is, 3 it could not be asked.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

LOCK: Final = Path(__file__).parents[1] / "requirements.lock"
DATABASE: Final = "https://api.osv.dev/v1/querybatch"
CLEAN, WEAK, NOT_ASKED = 0, 1, 3


def locked(text: str) -> Mapping[str, str]:
    """Names and versions of a lock."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE))


def audit(requirements: Mapping[str, str], database: str = DATABASE) -> Mapping[str, Sequence[str]]:
    """The known weaknesses by requirement. Raises httpx.HTTPError or ValueError where it gets no whole answer."""
    queries = [{"package": {"name": n, "ecosystem": "PyPI"}, "version": v} for n, v in requirements.items()]
    answer = httpx.post(database, json={"queries": queries}, timeout=30).raise_for_status()
    results = answer.json()["results"]
    found = zip(requirements.items(), results, strict=True)
    return {f"{name} {version}": [it["id"] for it in r["vulns"]] for (name, version), r in found if r.get("vulns")}


def main(database: str = DATABASE) -> int:
    requirements = locked(LOCK.read_text())
    try:
        weaknesses = audit(requirements, database)
    except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
        print(f"audit: NOT DONE, nothing is known: {database} gave no answer ({type(error).__name__})")
        return NOT_ASKED
    for requirement, names in weaknesses.items():
        print(f"audit: {requirement}: {', '.join(names)}")
    print(f"audit: {len(requirements)} requirements, {len(weaknesses)} with known weaknesses")
    return WEAK if weaknesses else CLEAN


if __name__ == "__main__":
    sys.exit(main())
