"""The script that counts the packages of cdt, run on a tree with known counts."""

import runpy

from doc_pages import ROOT

ROOMS = runpy.run_path(str(ROOT / "docs" / "figures" / "rooms.py"))

FILES = {
    "__init__.py": "from house.roof import f\n",
    "ground/__init__.py": "",
    "ground/a.py": "import json\nfrom house.ground import b\n",
    "ground/b.py": "def two():\n    from house import roof\n",  # closes a cycle
    "middle.py": "from house.ground.a import x\nimport house.ground.b\n",
    "roof.py": "from house import middle\nfrom house.ground import a\n\n\ndef f():\n"
    "    a = 1\n    return a\n",
    "shed.py": "import housekeeping\n",
}


def test_a_known_tree(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    house = ROOMS["measure"](tmp_path / "house")
    assert house.lines == {"ground": 4, "middle": 2, "roof": 7, "shed": 1}
    assert house.arrows == {
        ("ground", "roof"): 1, ("middle", "ground"): 2,
        ("roof", "middle"): 1, ("roof", "ground"): 1,
    }  # fmt: skip
    assert house.upward == {("ground", "roof")}
    assert house.levels == {"ground": 1, "middle": 2, "roof": 3, "shed": 1}
    assert house.longest == (3, "roof.py f")
    ROOMS["draw"](house, tmp_path / "house.png")
    assert (tmp_path / "house.png").read_bytes().startswith(b"\x89PNG")
