"""Real processes of torch.distributed that live as long as the tests, and what they are asked.

A fork server imports PyTorch once; each process is a fork of it and answers calls over a pipe.
"""

import datetime
import multiprocessing
import os
import traceback
import warnings

GROUPS = (1, 2, 3, 5)


class World:
    """Processes of one torch.distributed world; `run` makes the first ones call a function."""

    def __init__(self, size, folder, timeout=30.0):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed.tensor", "fastxent.torch"])
        self.connections, self.processes = [], []
        path = os.path.join(folder, "store")
        for rank in range(size):
            ours, theirs = context.Pipe()
            arguments = rank, size, path, timeout, theirs
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def run(self, ranks, function, *arguments, patience=40):
        """What `function(group, *arguments)` gives on each rank: a value, or an error as text."""
        for connection in self.connections[:ranks]:
            connection.send((ranks, function, arguments))
        return [self._answer(connection, patience) for connection in self.connections[:ranks]]

    def _answer(self, connection, patience):
        if not connection.poll(patience):
            return "hangs", None
        try:
            return connection.recv()
        except EOFError:
            return "died", None

    def close(self):
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()


def values(answers):
    """Values of all ranks; an error of any is the test's."""
    for kind, value in answers:
        assert kind == "value", value
    return [value for _, value in answers]


def _serve(rank, size, path, timeout, connection):
    import torch
    import torch.distributed as dist

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    patience = datetime.timedelta(seconds=timeout)
    # processes may take long to start; only their calls are to be impatient
    start = datetime.timedelta(seconds=max(timeout, 30.0))
    dist.init_process_group(
        "gloo", init_method=f"file://{path}", rank=rank, world_size=size, timeout=start
    )
    groups = {
        ranks: dist.new_group(list(range(ranks)), timeout=patience)
        for ranks in GROUPS
        if ranks <= size
    }
    while True:
        try:
            ranks, function, arguments = connection.recv()
        except EOFError:
            break
        try:
            answer = "value", function(groups[ranks], *arguments)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            answer = "error", (told, traceback.format_exc())
        connection.send(answer)
    os._exit(0)  # the others may be gone, and the group would wait for them
