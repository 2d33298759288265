"""The textbook TensorFlow loop: a graph with placeholders and one session call for each batch."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from benchmarks.rivals import common


def main() -> None:
    """Train, and print the result."""
    args = common.arguments(__doc__)
    train, test = common.load(args.data)
    size, count = args.batch_size, len(train.labels)
    steps = count // size
    v1 = tf.compat.v1
    v1.disable_eager_execution()
    # The graph scales the pixels, because feeding float32 would copy four times as many bytes.
    images = v1.placeholder(tf.uint8, [None, common.PIXELS])
    labels = v1.placeholder(tf.int32, [None])
    weights = v1.get_variable("weights", initializer=tf.zeros([common.PIXELS, common.CLASSES]))
    bias = v1.get_variable("bias", initializer=tf.zeros([common.CLASSES]))
    logits = tf.matmul(tf.cast(images, tf.float32) / 255, weights) + bias
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    train_step = v1.train.GradientDescentOptimizer(args.learning_rate).minimize(loss)
    generator = np.random.default_rng(0)
    threads = v1.ConfigProto(intra_op_parallelism_threads=args.threads, inter_op_parallelism_threads=args.threads)
    with v1.Session(config=threads) as session:
        session.run(v1.global_variables_initializer())

        def run_epoch() -> None:
            order = generator.permutation(count)
            for start in range(0, steps * size, size):
                batch = order[start : start + size]
                session.run(train_step, feed_dict={images: train.images[batch], labels: train.labels[batch]})

        us_per_step = common.time_epochs(args.epochs, steps, run_epoch)
        trained, offset = session.run([weights, bias])
        common.finish(us_per_step, size, common.accuracy(trained, offset, test))


if __name__ == "__main__":
    main()
