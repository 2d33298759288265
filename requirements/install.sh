#!/bin/sh
# Installs a lock file into /opt/venv for the image, without files that no command of the job opens.
set -eu
python -m venv --without-pip /opt/venv
pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --require-hashes --requirement "$1"

# Whole packages that the job never imports; 0.3 GB:
#   keras, h5py, optree, namex           layers; the trainer keeps TensorFlow from importing them
#   libclang, grpcio                     a compiler's library; remote calls from Python (TensorFlow has its own)
#   pyarrow, einops, fsspec              formats of other datasets; remote file systems
#   pygments, markdown-it-py, mdurl      rich's colouring of source code, and its Markdown
#   setuptools, wheel                    installation
pip --python /opt/venv/bin/python uninstall --yes \
    keras h5py optree namex libclang grpcio pyarrow einops fsspec pygments markdown-it-py mdurl setuptools wheel

cd /opt/venv/lib/python3*/site-packages
# C++ headers and sources for compiling against TensorFlow, and a model converter that nothing imports; 0.3 GB.
rm -rf tensorflow/include tensorflow/xla_aot_runtime_src tensorflow/compiler/mlir/stablehlo
# matplotlib needs only the list of glyphs for SVG; the rest embeds fonts in PDF and PostScript.
find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -rf {} +
# Tests of the packages.
find . -type d -name tests -prune -exec rm -rf {} +

# Symbol tables; 0.2 GB. NVIDIA's libraries stay as they are.
find . -type f -name '*.so*' ! -path './nvidia/*' -exec python /requirements/strip.py {} +

# 75 MB of bytecode. On a read-only root every start would compile again: the first step came after 8.5 s instead of
# 4.0 s. unchecked-hash: the sources cannot change, and an image builder may reset their times.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
