"""\"I am free\": gets the next job, does it, and asks for another one, until SIGTERM."""

import asyncio
import os
import signal

from brigade_client import Brigade


async def send(email, lease):
    print("sending to", email["to"], flush=True)
    return {"sent": True}


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    brigade = Brigade(os.environ.get("BRIGADE_HTTP", "http://127.0.0.1:7420"), os.environ.get("BRIGADE_TOKEN"))
    await brigade.work("emails", send, stop=stop)


asyncio.run(main())
