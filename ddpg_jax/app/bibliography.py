"""Bibliographic entries, from which `citations` selects."""

from __future__ import annotations

from ddpg_jax.app.bibliography_demonstrations import DEMONSTRATIONS
from ddpg_jax.app.bibliography_environments import ENVIRONMENTS
from ddpg_jax.app.bibliography_search import SEARCH

BIBLIOGRAPHY: dict[str, tuple[str, dict[str, str]]] = {
    "ddpg_jax": (
        "software",
        {
            "title": "{ddpg_jax}: Deep Deterministic Policy Gradient in {JAX}",
            "author": "{The ddpg_jax contributors}",
            "license": "Apache-2.0",
        },
    ),
    "lillicrap2015": (
        "article",
        {
            "title": "Continuous control with deep reinforcement learning",
            "author": "Lillicrap, Timothy P. and Hunt, Jonathan J. and Pritzel, Alexander and Heess, Nicolas and Erez, Tom and "
            "Tassa, Yuval and Silver, David and Wierstra, Daan",
            "journal": "arXiv preprint arXiv:1509.02971",
            "year": "2015",
        },
    ),
    "silver2014": (
        "inproceedings",
        {
            "title": "Deterministic Policy Gradient Algorithms",
            "author": "Silver, David and Lever, Guy and Heess, Nicolas and Degris, Thomas and Wierstra, Daan and "
            "Riedmiller, Martin",
            "booktitle": "International Conference on Machine Learning",
            "year": "2014",
        },
    ),
    "kingma2015": (
        "inproceedings",
        {
            "title": "{Adam}: A Method for Stochastic Optimization",
            "author": "Kingma, Diederik P. and Ba, Jimmy",
            "booktitle": "International Conference on Learning Representations",
            "year": "2015",
        },
    ),
    "fujimoto2018": (
        "inproceedings",
        {
            "title": "Addressing Function Approximation Error in Actor-Critic Methods",
            "author": "Fujimoto, Scott and van Hoof, Herke and Meger, David",
            "booktitle": "International Conference on Machine Learning",
            "year": "2018",
        },
    ),
    "uhlenbeck1930": (
        "article",
        {
            "title": "On the Theory of the {Brownian} Motion",
            "author": "Uhlenbeck, George E. and Ornstein, Leonard S.",
            "journal": "Physical Review",
            "volume": "36",
            "number": "5",
            "pages": "823--841",
            "year": "1930",
        },
    ),
    "plappert2018": (
        "inproceedings",
        {
            "title": "Parameter Space Noise for Exploration",
            "author": "Plappert, Matthias and Houthooft, Rein and Dhariwal, Prafulla and Sidor, Szymon and Chen, Richard Y. "
            "and Chen, Xi and Asfour, Tamim and Abbeel, Pieter and Andrychowicz, Marcin",
            "booktitle": "International Conference on Learning Representations",
            "note": "arXiv:1706.01905",
            "year": "2018",
        },
    ),
    "schaul2016": (
        "inproceedings",
        {
            "title": "Prioritized Experience Replay",
            "author": "Schaul, Tom and Quan, John and Antonoglou, Ioannis and Silver, David",
            "booktitle": "International Conference on Learning Representations",
            "year": "2016",
        },
    ),
    "andrychowicz2017": (
        "inproceedings",
        {
            "title": "Hindsight Experience Replay",
            "author": "Andrychowicz, Marcin and Wolski, Filip and Ray, Alex and Schneider, Jonas and Fong, Rachel and "
            "Welinder, Peter and McGrew, Bob and Tobin, Josh and Abbeel, Pieter and Zaremba, Wojciech",
            "booktitle": "Advances in Neural Information Processing Systems",
            "year": "2017",
        },
    ),
    "sutton2018": (
        "book",
        {
            "title": "Reinforcement Learning: An Introduction",
            "author": "Sutton, Richard S. and Barto, Andrew G.",
            "edition": "2nd",
            "publisher": "MIT Press",
            "year": "2018",
        },
    ),
    "mnih2015": (
        "article",
        {
            "title": "Human-level control through deep reinforcement learning",
            "author": "Mnih, Volodymyr and Kavukcuoglu, Koray and Silver, David and others",
            "journal": "Nature",
            "volume": "518",
            "pages": "529--533",
            "year": "2015",
        },
    ),
    "huber1964": (
        "article",
        {
            "title": "Robust Estimation of a Location Parameter",
            "author": "Huber, Peter J.",
            "journal": "The Annals of Mathematical Statistics",
            "volume": "35",
            "number": "1",
            "pages": "73--101",
            "year": "1964",
        },
    ),
    "pascanu2013": (
        "inproceedings",
        {
            "title": "On the difficulty of training recurrent neural networks",
            "author": "Pascanu, Razvan and Mikolov, Tomas and Bengio, Yoshua",
            "booktitle": "International Conference on Machine Learning",
            "year": "2013",
        },
    ),
    "loshchilov2017": (
        "inproceedings",
        {
            "title": "{SGDR}: Stochastic Gradient Descent with Warm Restarts",
            "author": "Loshchilov, Ilya and Hutter, Frank",
            "booktitle": "International Conference on Learning Representations",
            "year": "2017",
        },
    ),
    "loshchilov2019": (
        "inproceedings",
        {
            "title": "Decoupled Weight Decay Regularization",
            "author": "Loshchilov, Ilya and Hutter, Frank",
            "booktitle": "International Conference on Learning Representations",
            "year": "2019",
        },
    ),
    "ba2016": (
        "misc",
        {
            "title": "Layer Normalization",
            "author": "Ba, Jimmy Lei and Kiros, Jamie Ryan and Hinton, Geoffrey E.",
            "note": "arXiv:1607.06450",
            "year": "2016",
        },
    ),
    "ioffe2015": (
        "inproceedings",
        {
            "title": "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
            "author": "Ioffe, Sergey and Szegedy, Christian",
            "booktitle": "International Conference on Machine Learning",
            "year": "2015",
        },
    ),
    "kalamkar2019": (
        "misc",
        {
            "title": "A Study of {BFLOAT16} for Deep Learning Training",
            "author": "Kalamkar, Dhiraj and Mudigere, Dheevatsa and Mellempudi, Naveen and Das, Dipankar and others",
            "note": "arXiv:1905.12322",
            "year": "2019",
        },
    ),
    "clevert2016": (
        "inproceedings",
        {
            "title": "Fast and Accurate Deep Network Learning by Exponential Linear Units ({ELUs})",
            "author": r"Clevert, Djork-Arn{\'e} and Unterthiner, Thomas and Hochreiter, Sepp",
            "booktitle": "International Conference on Learning Representations",
            "year": "2016",
        },
    ),
    "hendrycks2016": (
        "misc",
        {
            "title": "{Gaussian} Error Linear Units ({GELUs})",
            "author": "Hendrycks, Dan and Gimpel, Kevin",
            "note": "arXiv:1606.08415",
            "year": "2016",
        },
    ),
    "elfwing2018": (
        "article",
        {
            "title": "Sigmoid-weighted linear units for neural network function approximation in reinforcement learning",
            "author": "Elfwing, Stefan and Uchibe, Eiji and Doya, Kenji",
            "journal": "Neural Networks",
            "volume": "107",
            "pages": "3--11",
            "year": "2018",
        },
    ),
    "chan1979": (
        "techreport",
        {
            "title": "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
            "author": "Chan, Tony F. and Golub, Gene H. and LeVeque, Randall J.",
            "institution": "Stanford University, Department of Computer Science",
            "number": "STAN-CS-79-773",
            "year": "1979",
        },
    ),
    "achiam2018": (
        "software",
        {
            "title": "Spinning Up in Deep Reinforcement Learning",
            "author": "Achiam, Joshua",
            "url": "https://github.com/openai/spinningup",
            "year": "2018",
        },
    ),
    "raffin2021": (
        "article",
        {
            "title": "{Stable-Baselines3}: Reliable Reinforcement Learning Implementations",
            "author": "Raffin, Antonin and Hill, Ashley and Gleave, Adam and Kanervisto, Anssi and Ernestus, Maximilian "
            "and Dormann, Noah",
            "journal": "Journal of Machine Learning Research",
            "volume": "22",
            "number": "268",
            "pages": "1--8",
            "year": "2021",
        },
    ),
    "huang2022": (
        "article",
        {
            "title": "{CleanRL}: High-quality Single-file Implementations of Deep Reinforcement Learning Algorithms",
            "author": "Huang, Shengyi and Dossa, Rousslan Fernand Julien and Ye, Chang and Braga, Jeff and Chakraborty, Dipam "
            r"and Mehta, Kinal and Ara{\'u}jo, Jo{\~a}o G. M.",
            "journal": "Journal of Machine Learning Research",
            "volume": "23",
            "number": "274",
            "pages": "1--18",
            "year": "2022",
        },
    ),
    "agarwal2021": (
        "inproceedings",
        {
            "title": "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
            "author": "Agarwal, Rishabh and Schwarzer, Max and Castro, Pablo Samuel and Courville, Aaron and "
            "Bellemare, Marc G.",
            "booktitle": "Advances in Neural Information Processing Systems",
            "year": "2021",
        },
    ),
    **DEMONSTRATIONS,
    **SEARCH,
    **ENVIRONMENTS,
    "bellemare2017": (
        "inproceedings",
        {
            "title": "A distributional perspective on reinforcement learning",
            "author": "Bellemare, Marc G. and Dabney, Will and Munos, R{\\'e}mi",
            "booktitle": "International Conference on Machine Learning",
            "pages": "449--458",
            "year": "2017",
        },
    ),
    "dabney2018": (
        "inproceedings",
        {
            "title": "Distributional reinforcement learning with quantile regression",
            "author": "Dabney, Will and Rowland, Mark and Bellemare, Marc G. and Munos, R{\\'e}mi",
            "booktitle": "AAAI Conference on Artificial Intelligence",
            "year": "2018",
        },
    ),
    "barthmaron2018": (
        "inproceedings",
        {
            "title": "Distributed distributional deterministic policy gradients",
            "author": "Barth-Maron, Gabriel and Hoffman, Matthew W. and Budden, David and Dabney, Will and Horgan, Dan and "
            "{TB}, Dhruva and Muldal, Alistair and Heess, Nicolas and Lillicrap, Timothy",
            "booktitle": "International Conference on Learning Representations",
            "year": "2018",
        },
    ),
    "lee2024": (
        "article",
        {
            "title": "{SimBa}: Simplicity bias for scaling up parameters in deep reinforcement learning",
            "author": "Lee, Hojoon and Hwang, Dongyoon and Kim, Donghu and Kim, Hyunseung and Tai, Jun Jet and "
            "Subramanian, Kaushik and Wurman, Peter R. and Choo, Jaegul and Stone, Peter and Seno, Takuma",
            "journal": "arXiv preprint arXiv:2410.09754",
            "year": "2024",
        },
    ),
    "eberhard2023": (
        "inproceedings",
        {
            "title": "Pink noise is all you need: Colored noise exploration in deep reinforcement learning",
            "author": "Eberhard, Onno and Hollenstein, Jakob and Pinneri, Cristina and Martius, Georg",
            "booktitle": "International Conference on Learning Representations",
            "year": "2023",
        },
    ),
    "seo2025": (
        "article",
        {
            "title": "{FastTD3}: Simple, fast, and capable reinforcement learning for humanoid control",
            "author": "Seo, Younggyo and Sferrazza, Carmelo and Geng, Haoran and Nauman, Michal and Yin, Zhao-Heng and "
            "Abbeel, Pieter",
            "journal": "arXiv preprint arXiv:2505.22642",
            "year": "2025",
        },
    ),
    "ioffe2017": (
        "inproceedings",
        {
            "title": "Batch renormalization: Towards reducing minibatch dependence in batch-normalized models",
            "author": "Ioffe, Sergey",
            "booktitle": "Advances in Neural Information Processing Systems",
            "year": "2017",
        },
    ),
    "bhatt2024": (
        "inproceedings",
        {
            "title": "{CrossQ}: Batch normalization in deep reinforcement learning for greater sample efficiency and "
            "simplicity",
            "author": "Bhatt, Aditya and Palenicek, Daniel and Belousov, Boris and Argus, Max and Amiranashvili, Artemij and "
            "Brox, Thomas and Peters, Jan",
            "booktitle": "International Conference on Learning Representations",
            "year": "2024",
        },
    ),
    "jax2018": (
        "software",
        {
            "title": "{JAX}: composable transformations of {Python+NumPy} programs",
            "author": "Bradbury, James and Frostig, Roy and Hawkins, Peter and Johnson, Matthew James and Leary, Chris and "
            "Maclaurin, Dougal and Necula, George and Paszke, Adam and VanderPlas, Jake and Wanderman-Milne, Skye "
            "and Zhang, Qiao",
            "url": "http://github.com/jax-ml/jax",
            "year": "2018",
        },
    ),
}
"""Key -> kind of entry and its fields. Title and author of this software agree with CITATION.cff."""
