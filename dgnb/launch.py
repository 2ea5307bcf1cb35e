"""Train one run in processes of its own: `python -m dgnb.launch REQUEST`, started by the run store when several devices are asked for."""
from __future__ import annotations

import importlib
import json
import sys

from dgnb.run_store import RunSpec, RunStore
from dgnb.safe_files import StoreError


def main(request: str) -> int:  # JSON with module, spec, local, progress, threads, since -> exit status
    """Import the recipe's module and train the run; Lightning Fabric starts this same command again for every further device."""
    wanted = json.loads(request)
    importlib.import_module(wanted["module"])
    store = RunStore(wanted["local"], shipped=f"{wanted['local']}/.none", threads=wanted["threads"])
    try:
        store.get(RunSpec(**wanted["spec"]), train=True, fresh=wanted["since"], progress=wanted["progress"])
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
