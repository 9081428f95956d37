import asyncio, time, logging
from tests.conformance.test_streams import _load, _agree, _counted, _scan
from tests.conformance.conftest import Running
from switchtower.maintenance import Maintenance
async def test_k(engine, store, driver):
    if driver=="motor": return
    logging.basicConfig(level=logging.INFO)
    t=time.time()
    load = asyncio.create_task(_load(engine, 40))
    killed=0
    while not load.done():
        async with Running(store, engine.url) as other:
            folder = asyncio.create_task(Maintenance(other)._fold())
            await asyncio.sleep(0.15)
            folder.cancel()
            r=await asyncio.gather(folder, return_exceptions=True)
            killed+=1
        print("killed",killed,time.time()-t, r, flush=True)
        if killed>60: break
    print("load", load.done(), time.time()-t, flush=True)
    await load
    print("load", load.done(), time.time()-t, flush=True)
    folder = asyncio.create_task(Maintenance(engine)._fold())
    for _ in range(12):
        await asyncio.sleep(1)
        a,b=await _counted(store), await _scan(store)
        print(time.time()-t, a==b, sum(a.values()), sum(b.values()), flush=True)
        if a==b: break
    folder.cancel()
