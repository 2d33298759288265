"""tf_keras `fit` under MultiWorkerMirroredStrategy in two processes on this machine: a whole training script.

Without TF_CONFIG it starts its two workers. Keras 3 does not support this strategy: keras-team/keras#20585.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rivals import common
from job.system.process import PARENT

if TYPE_CHECKING:
    from argparse import Namespace

WORKERS = 2


def worker(args: Namespace) -> None:
    """Train, evaluate and save as one worker of TF_CONFIG; the chief prints the result."""
    import tensorflow as tf  # noqa: PLC0415 - the process that starts the workers does not need it
    import tf_keras as keras  # noqa: PLC0415

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    chief = strategy.cluster_resolver.task_id == 0
    train, test = common.load(args.data)
    size, count = args.batch_size, len(train.labels)
    steps = count // size

    def batches(context: Any) -> Any:
        rows = tf.data.Dataset.from_tensor_slices((train.images, train.labels))
        rows = rows.shard(context.num_input_pipelines, context.input_pipeline_id).shuffle(count).repeat()
        return rows.batch(context.get_per_replica_batch_size(size)).prefetch(tf.data.AUTOTUNE)

    with strategy.scope():
        model = common.keras_model(keras, args)
    clock, ends = common.epoch_clock(keras)
    data = strategy.distribute_datasets_from_function(batches)
    model.fit(data, epochs=args.epochs, steps_per_epoch=steps, verbose=0, callbacks=[clock])
    us_per_step = common.between(ends[0], ends[-1], (args.epochs - 1) * steps)
    model.evaluate(tf.data.Dataset.from_tensor_slices((test.images, test.labels)).batch(1000), verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model", save_format="tf")  # every worker must save, says TensorFlow's guide
        if chief:
            common.finish(us_per_step, size, common.keras_accuracy(model, test))
    # TensorFlow has taken up to 40 s to exit, which does not count here.
    os._exit(0)


def main() -> None:
    """Start the workers, or run as one of them."""
    args = common.arguments(__doc__, steps_per_execution=1, cnn=0)
    if "TF_CONFIG" in os.environ:
        common.pin(json.loads(os.environ["TF_CONFIG"])["task"]["index"], WORKERS)
        worker(args)
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(WORKERS)]
        hosts = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    workers = []
    for index in range(WORKERS):
        tf_config = json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})
        command = [sys.executable, "-m", "benchmarks.rivals.tf_keras_mwms", *sys.argv[1:]]
        environment = os.environ | {"TF_CONFIG": tf_config, PARENT: str(os.getpid())}
        workers.append(subprocess.Popen(command, env=environment))
    sys.exit(max(abs(process.wait()) for process in workers))


if __name__ == "__main__":
    main()
