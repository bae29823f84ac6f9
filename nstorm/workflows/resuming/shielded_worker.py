"""Workers of a loader that a cluster's SIGTERM does not end before the training has stopped."""

import os
import signal
import threading
from collections.abc import Callable


class ShieldedWorker:
    """Keep SIGTERM from a worker of a loader, unless it comes from the process that it works for.

    Clusters send SIGTERM to all processes of a job. A training that stops in good order still needs its workers for
    the batch in work; they end with it. Elsewhere than on Linux this does nothing.

    Args:
        init: the loader's own `worker_init_fn`.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> from nstorm.workflows.resuming.shielded_worker import ShieldedWorker
        >>> loader = DataLoader(torch.arange(4), batch_size=2, num_workers=1, worker_init_fn=ShieldedWorker())
        >>> list(loader)
        [tensor([0, 1]), tensor([2, 3])]
    """

    def __init__(self, init: Callable[[int], None] | None = None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        """Begin a worker; the loader's `worker_init_fn`."""
        if hasattr(signal, "sigwaitinfo"):
            # threads to come inherit it; only the one that waits for the signal sees who sent it
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()
        if self.init is not None:
            self.init(worker)


def _obey(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
