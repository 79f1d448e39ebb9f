"""A producer: pushes jobs and does not wait for them."""

import os

from brigade_client import SyncBrigade

brigade = SyncBrigade(os.environ.get("BRIGADE_HTTP", "http://127.0.0.1:7420"), os.environ.get("BRIGADE_TOKEN"))
for name in ("ann", "bob", "eve"):
    job = brigade.push("emails", {"to": f"{name}@example.org"}, retries=3, keep="1h")
    print("pushed job", job["id"], flush=True)
