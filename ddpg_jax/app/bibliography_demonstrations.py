"""Bibliographic entries of learning from demonstrations."""

from __future__ import annotations

DEMONSTRATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "vecerik2017": (
        "article",
        {
            "title": "Leveraging Demonstrations for Deep Reinforcement Learning on Robotics Problems with Sparse Rewards",
            "author": "Vecerik, Mel and Hester, Todd and Scholz, Jonathan and Wang, Fumin and Pietquin, Olivier and Piot, "
            'Bilal and Heess, Nicolas and Roth{\\"o}rl, Thomas and Lampe, Thomas and Riedmiller, Martin',
            "journal": "arXiv preprint arXiv:1707.08817",
            "year": "2017",
        },
    ),
    "nair2018": (
        "inproceedings",
        {
            "title": "Overcoming Exploration in Reinforcement Learning with Demonstrations",
            "author": "Nair, Ashvin and McGrew, Bob and Andrychowicz, Marcin and Zaremba, Wojciech and Abbeel, Pieter",
            "booktitle": "IEEE International Conference on Robotics and Automation",
            "year": "2018",
        },
    ),
    "fujimoto2021": (
        "inproceedings",
        {
            "title": "A Minimalist Approach to Offline Reinforcement Learning",
            "author": "Fujimoto, Scott and Gu, Shixiang Shane",
            "booktitle": "Advances in Neural Information Processing Systems",
            "year": "2021",
        },
    ),
    "ball2023": (
        "inproceedings",
        {
            "title": "Efficient Online Reinforcement Learning with Offline Data",
            "author": "Ball, Philip J. and Smith, Laura and Kostrikov, Ilya and Levine, Sergey",
            "booktitle": "International Conference on Machine Learning",
            "year": "2023",
        },
    ),
}
