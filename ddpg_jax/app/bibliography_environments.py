"""Bibliographic entries of environments, their libraries and simulators."""

from __future__ import annotations

ENVIRONMENTS: dict[str, tuple[str, dict[str, str]]] = {
    "towers2024": (
        "misc",
        {
            "title": "Gymnasium: A Standard Interface for Reinforcement Learning Environments",
            "author": "Towers, Mark and Kwiatkowski, Ariel and Terry, Jordan and others",
            "note": "arXiv:2407.17032",
            "year": "2024",
        },
    ),
    "delazcano2024": (
        "software",
        {
            "title": "Gymnasium Robotics",
            "author": "de Lazcano, Rodrigo and Andreas, Kallinteris and Tai, Jun Jet and Lee, Seungjae Ryan and Terry, Jordan",
            "url": "https://github.com/Farama-Foundation/Gymnasium-Robotics",
            "year": "2024",
        },
    ),
    "lange2022": (
        "software",
        {
            "title": "gymnax: A {JAX}-based Reinforcement Learning Environment Library",
            "author": "Lange, Robert Tjarko",
            "url": "https://github.com/RobertTLange/gymnax",
            "year": "2022",
        },
    ),
    "freeman2021": (
        "inproceedings",
        {
            "title": "{Brax} -- A Differentiable Physics Engine for Large Scale Rigid Body Simulation",
            "author": "Freeman, C. Daniel and Frey, Erik and Raichuk, Anton and Girgin, Sertan and Mordatch, Igor "
            "and Bachem, Olivier",
            "booktitle": "NeurIPS Datasets and Benchmarks",
            "year": "2021",
        },
    ),
    "zakka2025": (
        "misc",
        {
            "title": "{MuJoCo Playground}",
            "author": "Zakka, Kevin and Tabanpour, Baruch and Liao, Qiayuan and others",
            "note": "arXiv:2502.08844",
            "year": "2025",
        },
    ),
    "tassa2018": (
        "misc",
        {
            "title": "{DeepMind} Control Suite",
            "author": "Tassa, Yuval and Doron, Yotam and Muldal, Alistair and others",
            "note": "arXiv:1801.00690",
            "year": "2018",
        },
    ),
    "todorov2012": (
        "inproceedings",
        {
            "title": "{MuJoCo}: A physics engine for model-based control",
            "author": "Todorov, Emanuel and Erez, Tom and Tassa, Yuval",
            "booktitle": "IEEE/RSJ International Conference on Intelligent Robots and Systems",
            "pages": "5026--5033",
            "year": "2012",
        },
    ),
}
