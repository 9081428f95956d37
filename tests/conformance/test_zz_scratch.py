import asyncio, time
from tests.conformance.test_streams import _load, _counted, _scan, Running, Maintenance
async def test_k(engine, store, driver):
    if driver!="motor": return
    for i in range(8):
        await store.counters.delete_many({})
        async with Running(store, engine.url) as other:
            load = asyncio.create_task(_load(engine, 10))
            folder = asyncio.create_task(Maintenance(other)._fold())
            await load
            t=time.time()
            while True:
                a,b=await _counted(store), await _scan(store)
                if a==b: break
                if time.time()-t>25: print("LOST", {k:(a.get(k,0),b.get(k,0)) for k in a.keys()|b.keys() if a.get(k,0)!=b.get(k,0)}); break
                await asyncio.sleep(0.05)
            print("agreed after", round(time.time()-t,2), flush=True)
            folder.cancel()
            await asyncio.gather(folder, return_exceptions=True)
