# Puts the wheel into /opt/dp-vllm of the image that is being built; the stage `wheel` is mounted at /mnt.
set -eu
/mnt/opt/uv/bin/uv pip install -q --python /opt/dp-vllm --no-cache --no-deps --offline /mnt/dist/*.whl
# What runs with a read-only root cannot write its bytecode later.
/opt/dp-vllm/bin/python -I -m compileall -q /opt/dp-vllm/lib/python3*/site-packages/dp_vllm*
cp /mnt/dist/health.py /opt/dp-vllm/
