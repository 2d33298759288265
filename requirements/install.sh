#!/bin/sh
# Installs a lock file into /opt/venv, for the image: without what no command of the job opens.
set -eu
python -m venv --without-pip /opt/venv
pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --require-hashes --requirement "$1"

# Packages whose absence TensorFlow, tensorflow-datasets and rich do without, as they import them on use:
#   keras, h5py, optree, namex, libclang, grpcio   TensorFlow's layers, their files, and its build
#   pyarrow, einops, fsspec                         other datasets and file systems
#   pygments, markdown-it-py, mdurl                 rich's coloured source code
#   setuptools, wheel                               installing
pip --python /opt/venv/bin/python uninstall --yes \
    keras h5py optree namex libclang grpcio pyarrow einops fsspec pygments markdown-it-py mdurl setuptools wheel

cd /opt/venv/lib/python3*/site-packages
# C++ headers and sources, for compiling against TensorFlow, and a converter of models that nothing imports.
rm -rf tensorflow/include tensorflow/xla_aot_runtime_src tensorflow/compiler/mlir/stablehlo
# The packages' own tests.
find . -type d -name tests -prune -exec rm -rf {} +

# The root may be read-only, and compiling at each start takes longer than reading. Never checked against the source:
# it cannot change, and an image builder may reset the files' times.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash . || true
