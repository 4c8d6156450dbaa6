import asyncio
import threading

from bentos.batching.workers import Worker


def test_what_was_given_last_is_taken_back_though_a_thread_is_late():
    async def run() -> list[str]:
        done: list[str] = []
        worker = Worker(asyncio.get_running_loop(), overlap=0)  # no thread has come round yet
        for name in ("first", "second", "third"):
            worker.give(lambda name=name: name, done.append)
        assert worker.take_back() and worker.take_back()
        worker._tokens.put(False)
        late = threading.Thread(target=worker._work)
        late.start()
        await asyncio.to_thread(late.join)
        await asyncio.sleep(0)
        return done

    assert asyncio.run(run()) == ["first"]


def test_what_has_begun_is_not_taken_back():
    async def run() -> list[str]:
        began, goes_on, done = threading.Event(), threading.Event(), []
        worker = Worker(asyncio.get_running_loop())

        def work() -> str:
            began.set()
            goes_on.wait()
            return "done"

        worker.give(work, done.append)
        await asyncio.to_thread(began.wait)
        assert not worker.take_back()
        goes_on.set()
        await asyncio.to_thread(worker.close)
        await asyncio.sleep(0)
        return done

    assert asyncio.run(run()) == ["done"]
