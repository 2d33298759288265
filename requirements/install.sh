#!/bin/sh
# Installs a lock file into /opt/venv for the image, without files that no command of the job opens.
set -eu
python -m venv --without-pip /opt/venv
pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --require-hashes --requirement "$1"

# Whole packages that the job never imports; 0.3 GB. Keras stays: a model.py may use it.
#   libclang, grpcio                     a compiler's library; remote calls from Python (TensorFlow has its own)
#   pyarrow, einops, fsspec              formats of other datasets; remote file systems
#   pygments, markdown-it-py, mdurl      rich's colouring of source code, and its Markdown
#   setuptools, wheel                    installation
pip --python /opt/venv/bin/python uninstall --yes \
    libclang grpcio pyarrow einops fsspec pygments markdown-it-py mdurl setuptools wheel

cd /opt/venv/lib/python3*/site-packages
# C++ headers and sources for compiling against TensorFlow, a model converter, and a library of XLA's operations, which
# TensorFlow has in its own; 0.3 GB. Nothing loads them.
rm -rf tensorflow/include tensorflow/xla_aot_runtime_src tensorflow/compiler/mlir/stablehlo \
    tensorflow/compiler/tf2xla/ops/_xla_ops.so
# TensorFlow Datasets' descriptions of its datasets, which it can do without; 20 MB. A prepared dataset has its own.
find tensorflow_datasets -mindepth 1 -maxdepth 1 -type d \
    ! -name core ! -name proto ! -name rlds ! -name testing -exec rm -rf {} +
# Parts of Pillow that are optional in it: AVIF, WebP, fonts, colour profiles; 8 MB.
rm -f PIL/_avif.* PIL/_webp.* PIL/_imagingft.* PIL/_imagingcms.* pillow.libs/libavif-* pillow.libs/libwebp* \
    pillow.libs/libsharpyuv-* pillow.libs/libharfbuzz-* pillow.libs/libfreetype-* pillow.libs/libpng* \
    pillow.libs/libbrotli* pillow.libs/liblcms2-*
# matplotlib needs only the list of glyphs for SVG; the rest embeds fonts in PDF and PostScript.
find fontTools -mindepth 1 -maxdepth 1 -type d ! -name misc -exec rm -rf {} +
# NumPy's compilers, and tests and examples of the packages.
rm -rf numpy/distutils numpy/f2py tornado/test matplotlib/mpl-data/sample_data
find . -type d -name tests -prune -exec rm -rf {} +

# Symbol tables; 0.2 GB. NVIDIA's libraries stay as they are.
find . -type f -name '*.so*' ! -path './nvidia/*' -exec python /requirements/strip.py {} +

# 75 MB of bytecode. On a read-only root every start would compile again: the first step came after 8.5 s instead of
# 4.0 s. unchecked-hash: the sources cannot change, and an image builder may reset their times.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash .
