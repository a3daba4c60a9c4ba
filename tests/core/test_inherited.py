"""No child inherits what it does not need: tokens of the hub and of stores are for engines alone."""

from dp_vllm import inherited

OURS = {
    "PATH": "/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "LD_LIBRARY_PATH": "/cuda",
    "CUDA_VISIBLE_DEVICES": "0",
    "VLLM_LOGGING_LEVEL": "DEBUG",
    "VLLM_API_KEY": "key",
    "DP_VLLM_API_KEY": "key",
    "VLLM_PORT_8000_TCP": "tcp://10.0.0.1",
    "HF_TOKEN": "token",
    "HUGGING_FACE_HUB_TOKEN": "token",
    "AWS_ACCESS_KEY_ID": "id",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "GOOGLE_APPLICATION_CREDENTIALS": "/file",
    "SSH_AUTH_SOCK": "/agent",
    "HTTPS_PROXY": "http://user:password@proxy",
    "SOME_PLUGIN": "1",
}
MACHINE = ("HOME", "LC_ALL", "LD_LIBRARY_PATH", "PATH")


def test_the_gateway_guardians_and_doors_inherit_what_an_interpreter_needs() -> None:
    assert inherited.by_helper(OURS) == MACHINE


def test_what_asks_the_driver_knows_which_gpus_are_visible() -> None:
    assert inherited.by_driver_probe(OURS) == {name: OURS[name] for name in (*MACHINE, "CUDA_VISIBLE_DEVICES")}


def test_a_simulated_engine_inherits_vllms_switches_and_no_token() -> None:
    assert set(inherited.by_simulator(OURS)) == {*MACHINE, "CUDA_VISIBLE_DEVICES", "VLLM_LOGGING_LEVEL"}


def test_an_engine_inherits_all_but_the_endpoints_own() -> None:
    assert inherited.kept_from_engine(OURS) == ("DP_VLLM_API_KEY", "VLLM_API_KEY", "VLLM_PORT_8000_TCP")
