#!/bin/sh
# Installs a lock file into /opt/venv, for the image: without what no command of the job opens.
set -eu
python -m venv --without-pip /opt/venv
pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --require-hashes --requirement "$1"

# Whole packages, which those that ask for them import on use, or not at all; 0.3 GB:
#   keras, h5py, optree, namex           layers, which the trainer keeps TensorFlow from importing, and their files
#   libclang, grpcio                     a compiler's library, and remote calls from Python: TensorFlow's are its own
#   pyarrow, einops, fsspec              other datasets' formats, and file systems that are elsewhere
#   pygments, markdown-it-py, mdurl      rich's colouring of source code, and its Markdown
#   setuptools, wheel                    installing
pip --python /opt/venv/bin/python uninstall --yes \
    keras h5py optree namex libclang grpcio pyarrow einops fsspec pygments markdown-it-py mdurl setuptools wheel

cd /opt/venv/lib/python3*/site-packages
# C++ headers and sources, for compiling against TensorFlow, and a converter of models that nothing imports; 0.3 GB.
# Not stripped of its symbols, another 0.2 GB: that would change the libraries themselves.
rm -rf tensorflow/include tensorflow/xla_aot_runtime_src tensorflow/compiler/mlir/stablehlo
# matplotlib's plots in SVG need the list of glyphs alone; the rest embeds fonts in PDF and PostScript.
find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -rf {} +
# The packages' own tests.
find . -type d -name tests -prune -exec rm -rf {} +

# 75 MB of bytecode: on a read-only root every start would compile again, and train after 8.5 s instead of 4.0. It is
# never compared with its source, which cannot change, and whose times an image builder may reset.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
