"""`dp-vllm topo FILE`: the table, the JSON, the picture, and what is said about input that cannot be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from PIL import Image, ImageColor
from topology.stand_in_driver import Driver, uuid

from dp_vllm.errors import DpVllmError
from dp_vllm.topology.command import topo
from dp_vllm.topology.parse import parse
from dp_vllm.topology.png import SCALE

MATRICES = Path(__file__).parent / "matrices"
DGX1 = str(MATRICES / "v100x8_dgx1.txt")
TWO_SWITCHES = str(MATRICES / "pcie8_pix_pxb_sys.txt")


def printed(*words: str, text: str | None = None) -> str:
    result = CliRunner().invoke(topo, words, input=text, catch_exceptions=False, standalone_mode=False)
    assert result.return_value == 0
    return result.stdout


def as_json(*words: str) -> Any:
    return json.loads(printed(*words, "--json"))


def refused(*words: str, text: str | None = None) -> str:
    with pytest.raises(DpVllmError) as error:
        printed(*words, text=text)
    return str(error.value)


def test_the_table_says_what_was_chosen_and_what_index_order_would_give() -> None:
    lines = printed(DGX1, "-tp", "2").splitlines()

    assert lines[1].split() == ["GPU0", "-", "NV1", "NV1", "NV2", "NV2", "SYS", "SYS", "SYS", "0-19,40-59"]
    assert lines[11:16] == [
        "replica  GPUs  slowest link    in index order  slowest link",
        "0        0,3   NV2             0,1             NV1",
        "1        1,2   NV2             2,3             NV2",
        "2        4,7   NV2             4,5             NV1",
        "3        5,6   NV2             6,7             NV2",
    ]
    assert lines[17] == "The slowest link inside a replica is NV2; in index order it would be NV1."


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (("-tp", "4"), ["The slowest link inside a replica is NV1; index order makes the same groups."]),
        (("-dp", "8"), ["One GPU a replica: links do not matter."]),
        (
            ("-dp", "1", "-tp", "3"),
            [
                "The slowest link inside a replica is NV1; "
                "in index order too, with slower links or more sockets beside it.",
                "Not used: GPU 1,4,5,6,7",
            ],
        ),
        (
            ("-tp", "2", "-pp", "2"),
            [
                "The slowest link is NV2 inside a stage and NV1 inside a replica; "
                "in index order it would be NV1 and NV1."
            ],
        ),
        (("-dp", "1"), ["One GPU a replica: links do not matter.", "Not used: GPU 1,2,3,4,5,6,7"]),
        ((), ["The slowest link inside a replica is NV2; in index order it would be NV1."]),
    ],
)
def test_the_table_ends_with_what_follows(words: tuple[str, ...], end: list[str]) -> None:
    assert printed(DGX1, *words).splitlines()[-len(end) :] == end


def test_stages_stand_side_by_side() -> None:
    lines = printed(TWO_SWITCHES, "-tp", "2", "-pp", "2").splitlines()
    assert lines[12:14] == ["0        0,1 | 2,3  PIX | PIX", "1        4,5 | 6,7  PIX | PIX"]


def test_a_wide_matrix_is_not_folded_into_a_narrow_terminal() -> None:
    first, second, *_ = printed(str(MATRICES / "v100x16_dgx2_partial.txt"), "-tp", "16").splitlines()
    assert len(first.split()) == 17 and second.split()[-1] == "0-23,48-71" and len(second) > 100


def test_a_terminal_gets_colours() -> None:
    coloured = CliRunner(env={"FORCE_COLOR": "1"}).invoke(topo, [DGX1], color=True, catch_exceptions=False)
    assert "\x1b[7;32mNV2\x1b[0m" in coloured.stdout and "\x1b[31mSYS\x1b[0m" in coloured.stdout
    assert "\x1b" not in printed(DGX1)


def test_json_has_the_groups_and_what_they_were_chosen_from() -> None:
    found = as_json(str(MATRICES / "mixed5_phb_node_sys.txt"))

    assert found["groups"] == [{"gpus": [1, 2], "worst_link": "PHB"}, {"gpus": [3, 4], "worst_link": "PHB"}]
    assert found["worst_link"] == "PHB"
    assert found["index_order"] == {
        "groups": [{"gpus": [0, 1], "worst_link": "SYS"}, {"gpus": [2, 3], "worst_link": "NODE"}],
        "worst_link": "SYS",
    }
    assert found["left_over"] == [0] and found["warnings"] == []
    assert found["gpus"][0] == {"index": 0, "numa": "1", "cpus": "8-15,24-31"}
    assert found["links"][1] == ["SYS", "X", "PHB", "NODE", "NODE"]


def test_json_has_the_stages_where_there_are_several() -> None:
    (group,) = as_json(TWO_SWITCHES, "-dp", "1", "-tp", "2", "-pp", "2")["groups"]
    assert group == {
        "gpus": [0, 1, 2, 3],
        "worst_link": "PXB",
        "stages": [{"gpus": [0, 1], "worst_link": "PIX"}, {"gpus": [2, 3], "worst_link": "PIX"}],
    }


def test_one_gpu_has_no_link() -> None:
    assert as_json(DGX1, "-dp", "1")["groups"] == [{"gpus": [0], "worst_link": None}]


def test_a_pasted_matrix_is_read_from_standard_input() -> None:
    pasted = Path(DGX1).read_text()
    assert printed("-", text=pasted) == printed(DGX1)


def test_only_some_gpus_are_free() -> None:
    found = as_json(TWO_SWITCHES, "-dp", "2", "-tp", "2", "--device-ids", "0,2,3,4,5,7")
    assert [group["gpus"] for group in found["groups"]] == [[2, 3], [4, 5]]
    assert [group["gpus"] for group in found["index_order"]["groups"]] == [[0, 2], [3, 4]]
    assert found["left_over"] == [0, 7]


def test_groups_can_be_given() -> None:
    found = as_json(DGX1, "--gpu-groups", "0,5; 6,7")
    assert found["groups"] == [{"gpus": [0, 5], "worst_link": "SYS"}, {"gpus": [6, 7], "worst_link": "NV2"}]
    assert found["left_over"] == [1, 2, 3, 4]
    (staged,) = as_json(DGX1, "--gpu-groups", "0,3,1,2", "-pp", "2")["groups"]
    assert [stage["gpus"] for stage in staged["stages"]] == [[0, 3], [1, 2]]


def test_rows_that_contradict_each_other_are_a_warning() -> None:
    text = Path(DGX1).read_text().replace("GPU1\tNV1", "GPU1\tNV2", 1)
    result = CliRunner().invoke(topo, ["-", "--json"], input=text, catch_exceptions=False)
    doubt = "GPU0 and GPU1 are joined by NV1 in one row and by NV2 in the other"
    assert result.stderr == f"dp-vllm: warning: {doubt}\n"
    assert json.loads(result.stdout)["warnings"] == [doubt]


def test_the_picture_has_both_ways_to_group(tmp_path: Path) -> None:
    picture = tmp_path / "groups.svg"

    printed(DGX1, "--picture", str(picture))

    drawn = ElementTree.parse(picture).getroot()
    texts = ["".join(each.itertext()) for each in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "v100x8_dgx1.txt: -dp 4 -tp 2"
    assert "Chosen by links: slowest link NV2" in texts and "In index order: slowest link NV1" in texts
    assert "replica 0: GPU 0,3, NV2" in texts and "replica 0: GPU 0,1, NV1" in texts
    right = max(float(each.get("x", 0)) for each in drawn.iter("{http://www.w3.org/2000/svg}rect"))
    assert right < float(drawn.get("width", 0))


def test_a_picture_of_the_same_groups_has_them_once(tmp_path: Path) -> None:
    picture = tmp_path / "groups.svg"
    printed(TWO_SWITCHES, "-tp", "2", "-pp", "2", "--picture", str(picture))
    assert "index order" not in picture.read_text()
    assert "Chosen by links: slowest link PIX inside a stage, PXB beside" in picture.read_text()


def test_a_png_shows_what_the_svg_shows(tmp_path: Path) -> None:
    drawn, dots = tmp_path / "groups.svg", tmp_path / "groups.PNG"
    printed(DGX1, "--picture", str(drawn))
    printed(DGX1, "--picture", str(dots))

    root = ElementTree.parse(drawn).getroot()
    cells = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("stroke") == "#ffffff"]
    with Image.open(dots) as opened:
        image = opened.convert("RGB")
    assert image.size == (SCALE * int(root.get("width", 0)), SCALE * int(root.get("height", 0)))
    assert len(cells) == 2 * 64
    for cell in cells:
        x, y = (SCALE * (round(float(cell.get(axis, 0))) + 3) for axis in "xy")
        assert image.getpixel((x, y)) == ImageColor.getrgb(cell.get("fill", ""))
    title = image.crop((0, 0, image.width, SCALE * 40))
    assert min(title.get_flattened_data()) == (0, 0, 0), "there are letters"


def test_without_pillow_a_png_is_refused_and_an_svg_drawn(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['PIL'] = None; from dp_vllm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", hidden, "topo", DGX1, "--picture"]
    asked = subprocess.run([*command, str(tmp_path / "a.png")], capture_output=True, text=True, timeout=30)
    assert asked.returncode == 1 and not (tmp_path / "a.png").exists()
    assert asked.stderr == (
        "dp-vllm: a PNG needs Pillow, which is not installed here: pip install pillow (the extra `picture` of "
        "dp-vllm); without it, draw a .svg\n"
    )
    subprocess.run([*command, str(tmp_path / "a.svg")], check=True, capture_output=True, timeout=30)
    assert (tmp_path / "a.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--picture", "a.gif"), "--picture: 'a.gif' is not allowed; allowed are names that end with .svg or .png"),
        (("-dp", "4", "-tp", "4"), f"needs dp*tp*pp = 4*4*1 = 16 GPUs, {DGX1} has 8 (0,1,2,3,4,5,6,7)"),
        (
            ("-tp", "2", "-pp", "2", "--device-ids", "3,5,6"),
            f"needs dp*tp*pp = 1*2*2 = 4 GPUs, {DGX1} has 3 (3,5,6)",
        ),
        (("--device-ids", "3,8"), f"--device-ids: there is no GPU '8': {DGX1} has 0,1,2,3,4,5,6,7"),
        (("--device-ids", "3,3"), "--device-ids: GPU 3 is named twice in '3,3'"),
        (
            ("--gpu-groups", "0,1;1,2"),
            "--gpu-groups: GPU 1 is named twice, each can be used once",
        ),
        (("--gpu-groups", "0,9"), f"--gpu-groups: there is no GPU 9: {DGX1} has 0,1,2,3,4,5,6,7"),
        (("--gpu-groups", "0,1", "-tp", "4"), "--gpu-groups: a group has 2 GPUs, a replica needs 4"),
        (
            ("--gpu-groups", "0,1", "-dp", "2"),
            "--gpu-groups: 1 group for -dp 2; in a shell, put them in quotes: '0,1;2,3'",
        ),
        (("--gpu-groups", "0,1;2,3", "-dp", "1"), "--gpu-groups: 2 groups for -dp 1"),
        (
            ("--gpu-groups", "0,1;2"),
            "--gpu-groups: '0,1;2' is not allowed; all groups need the same number of GPUs, not 1 and 2",
        ),
        (
            ("--gpu-groups", "0,1;"),
            "--gpu-groups: '0,1;' is not allowed; allowed are GPUs separated by commas, in groups separated by "
            "semicolons, like '0,1;2,3'",
        ),
        (
            ("--picture", "/no/such/place.svg"),
            "--picture: /no/such/place.svg cannot be written (No such file or directory)",
        ),
    ],
)
def test_what_cannot_be_is_told(words: tuple[str, ...], sentence: str) -> None:
    assert refused(DGX1, *words) == sentence


def test_a_file_that_holds_no_matrix_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("nothing here")
    assert refused(str(file)) == (
        f"{file}: it has no row of a GPU as `nvidia-smi topo -m` prints them, like 'GPU0 X NV12 SYS'"
    )
    assert refused(str(tmp_path)) == f"{tmp_path}: it cannot be read (Is a directory)"
    assert refused(str(file) + "x") == f"{file}x: it cannot be read (No such file or directory)"
    assert refused("-", text="\0\xff") == (
        "standard input: it has no row of a GPU as `nvidia-smi topo -m` prints them, like 'GPU0 X NV12 SYS'"
    )


def test_it_is_a_command_of_dp_vllm() -> None:
    command = [sys.executable, "-I", "-m", "dp_vllm", "topo", DGX1]
    asked = subprocess.run([*command, "-tp", "9"], capture_output=True, text=True, timeout=30)
    assert asked.returncode == 1
    assert asked.stderr == f"dp-vllm: needs dp*tp*pp = 1*9*1 = 9 GPUs, {DGX1} has 8 (0,1,2,3,4,5,6,7)\n"


def on_machine(driver: Driver, *words: str, **environ: str) -> Any:
    runner = CliRunner(env=driver.environ | environ)
    result = runner.invoke(topo, [*words, "--json"], catch_exceptions=False, standalone_mode=False)
    return json.loads(result.stdout)


def test_without_a_file_this_machine_is_asked(driver: Driver) -> None:
    driver.has(parse(Path(DGX1).read_text()).matrix)

    whole = on_machine(driver, "-tp", "2")
    part = on_machine(driver, "-tp", "2", CUDA_VISIBLE_DEVICES=f"{uuid(6)},1,{uuid(2)[:12]},3,0")
    named = on_machine(driver, "--device-ids", "5,6", CUDA_VISIBLE_DEVICES="0")

    assert [group["gpus"] for group in whole["groups"]] == [[0, 3], [1, 2], [4, 7], [5, 6]]
    assert [group["gpus"] for group in part["groups"]] == [[1, 2], [3, 0]]
    assert [gpu["index"] for gpu in part["gpus"]] == [6, 1, 2, 3, 0]
    assert [group["gpus"] for group in named["groups"]] == [[5, 6]]


@pytest.mark.parametrize(
    ("further", "environ", "sentence"),
    [
        (["fail nvmlDeviceGetPciInfo_v3 15"], {}, "the NVIDIA driver says: GPU is lost"),
        ([], {"CUDA_VISIBLE_DEVICES": "0,2"}, "CUDA_VISIBLE_DEVICES: there is no GPU 2, the driver has 0,1"),
        ([], {"CUDA_VISIBLE_DEVICES": f"1,{uuid(1)}"}, f"CUDA_VISIBLE_DEVICES: GPU 1 is named twice in '1,{uuid(1)}'"),
        ([], {"CUDA_VISIBLE_DEVICES": "MIG-a"}, "CUDA_VISIBLE_DEVICES: MIG-a is a part of a divided GPU (MIG)"),
        ([], {"CUDA_VISIBLE_DEVICES": ""}, "needs dp*tp*pp = 1*1*1 = 1 GPUs, this machine has 0"),
    ],
)
def test_a_machine_that_does_not_do_is_told(
    further: list[str], environ: dict[str, str], sentence: str, driver: Driver
) -> None:
    driver.has(parse((MATRICES / "a100x8_sxm_nv12_p4d.txt").read_text()).matrix.of([0, 4]), *further)
    with pytest.raises(DpVllmError) as error:
        on_machine(driver, **environ)
    assert sentence in str(error.value)
