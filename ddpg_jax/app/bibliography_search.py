"""Bibliographic entries of searching for hyperparameters."""

from __future__ import annotations

SEARCH: dict[str, tuple[str, dict[str, str]]] = {
    "bergstra2011": (
        "inproceedings",
        {
            "title": "Algorithms for Hyper-Parameter Optimization",
            "author": "Bergstra, James and Bardenet, R{\\'e}mi and Bengio, Yoshua and K{\\'e}gl, Bal{\\'a}zs",
            "booktitle": "Advances in Neural Information Processing Systems",
            "year": "2011",
        },
    ),
    "hansen2001": (
        "article",
        {
            "title": "Completely Derandomized Self-Adaptation in Evolution Strategies",
            "author": "Hansen, Nikolaus and Ostermeier, Andreas",
            "journal": "Evolutionary Computation",
            "volume": "9",
            "number": "2",
            "pages": "159--195",
            "year": "2001",
        },
    ),
    "akiba2019": (
        "inproceedings",
        {
            "title": "{Optuna}: A Next-generation Hyperparameter Optimization Framework",
            "author": "Akiba, Takuya and Sano, Shotaro and Yanase, Toshihiko and Ohta, Takeru and Koyama, Masanori",
            "booktitle": "ACM SIGKDD International Conference on Knowledge Discovery and Data Mining",
            "year": "2019",
        },
    ),
    "watanabe2023": (
        "inproceedings",
        {
            "title": "{PED-ANOVA}: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces",
            "author": "Watanabe, Shuhei and Bansal, Archit and Hutter, Frank",
            "booktitle": "International Joint Conference on Artificial Intelligence",
            "year": "2023",
        },
    ),
    "jamieson2016": (
        "inproceedings",
        {
            "title": "Non-stochastic best arm identification and hyperparameter optimization",
            "author": "Jamieson, Kevin and Talwalkar, Ameet",
            "booktitle": "International Conference on Artificial Intelligence and Statistics",
            "year": "2016",
        },
    ),
    "li2020": (
        "inproceedings",
        {
            "title": "A system for massively parallel hyperparameter tuning",
            "author": "Li, Liam and Jamieson, Kevin and Rostamizadeh, Afshin and Gonina, Ekaterina and Ben-tzur, Jonathan and "
            "Hardt, Moritz and Recht, Benjamin and Talwalkar, Ameet",
            "booktitle": "Proceedings of Machine Learning and Systems",
            "year": "2020",
        },
    ),
    "jaderberg2017": (
        "article",
        {
            "title": "Population Based Training of Neural Networks",
            "author": "Jaderberg, Max and Dalibard, Valentin and Osindero, Simon and Czarnecki, Wojciech M. and Donahue, Jeff "
            "and Razavi, Ali and Vinyals, Oriol and Green, Tim and Dunning, Iain and Simonyan, Karen and Fernando, Chrisantha "
            "and Kavukcuoglu, Koray",
            "journal": "arXiv preprint arXiv:1711.09846",
            "year": "2017",
        },
    ),
}
