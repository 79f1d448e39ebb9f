"""An RPC call: a Rust consumer serves the task ``add``."""

import os

from brigade_client import BrigadeError, SyncBrigade

brigade = SyncBrigade(os.environ.get("BRIGADE_HTTP", "http://127.0.0.1:7420"), os.environ.get("BRIGADE_TOKEN"))
try:
    print("3 + 4 =", brigade.call("add", [3, 4], wait=10))
except BrigadeError as error:
    print(f"{error.kind}: {error}")
