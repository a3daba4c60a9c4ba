"""Which runs of this user there are on this machine."""

from collections.abc import Mapping

from dp_vllm import names
from dp_vllm.local import run
from dp_vllm.local.run import Record
from dp_vllm.local.run_directory import run_directory


def running(environ: Mapping[str, str]) -> dict[str, Record]:
    """The runs whose supervisor is alive, by name."""
    home = run_directory(str(names.DEFAULT_PORT), environ).path.parent
    found = ((path.parent.name, run.read(run_directory(path.parent.name, environ))) for path in home.glob("*/run.json"))
    return {name: record for name, record in sorted(found) if record is not None and record.supervisor.alive}
