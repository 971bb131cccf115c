"""Returns that are known: of random policies, of references, and of humans in games of Atari."""

# Of 500 episodes of uniformly random, legal actions in the environments with their default params, as
# `scores.random_return` measures them; a slow test measures them again.
RANDOM = {
    "CartPole-v1": 22.17,
    "Pendulum-v1": -1213.0,
    "Acrobot-v1": -498.5,
    "MountainCar-v0": -200.0,
    "MountainCarContinuous-v0": -33.34,
    "Asterix-MinAtar": 0.522,
    "Breakout-MinAtar": 0.392,
    "Freeway-MinAtar": 0.382,
    "Seaquest-MinAtar": 0.09,
    "SpaceInvaders-MinAtar": 3.972,
    "Catch-bsuite": -0.656,
    "DeepSea-bsuite": -0.002978,
    "MemoryChain-bsuite": 0.024,
    "UmbrellaChain-bsuite": -0.068,
    "DiscountingChain-bsuite": 1.022,
    "SimpleBandit-bsuite": 0.5022,
    "FourRooms-misc": 0.486,
    "MetaMaze-misc": 7.46,
    "PointRobot-misc": 0.178,
    "BernoulliBandit-misc": 50.14,
    "GaussianBandit-misc": -51.05,
    "Reacher-misc": 15.87,
    "Swimmer-misc": 88.1,
    "Pong-misc": 97.59,
    "FrozenLake-misc": 0.014,
    "Taxi-v3": -772.1,
    "CliffWalking-v1": -2093.0,
    "GridWorld-misc": -187.5,
}

# What counts as a score of 1: limits of what can be reached, thresholds at which Gymnasium calls a task solved, or
# optima from exact planning.
REFERENCES = {
    "CartPole-v1": 500.0,  # the limit
    "Acrobot-v1": -100.0,  # Gymnasium's threshold
    "MountainCar-v0": -110.0,  # Gymnasium's threshold
    "MountainCarContinuous-v0": 90.0,  # Gymnasium's threshold
    "Pendulum-v1": -139.0,  # the optimum, nearly
    "FrozenLake-misc": 0.7442,  # the optimum
    "Taxi-v3": 7.93,  # the optimum
    "CliffWalking-v1": -13.0,  # the optimum
    "Catch-bsuite": 1.0,  # the limit
    "MemoryChain-bsuite": 1.0,  # the limit
}

# Returns of a random policy and of a human player in the 57 games, in episodes that begin with up to 30 no-ops, as
# human-normalised scores are usually computed: table 2 of Wang et al. 2016 (Dueling network architectures for deep
# reinforcement learning).
ATARI = {
    "alien": (227.8, 7127.7),
    "amidar": (5.8, 1719.5),
    "assault": (222.4, 742.0),
    "asterix": (210.0, 8503.3),
    "asteroids": (719.1, 47388.7),
    "atlantis": (12850.0, 29028.1),
    "bankheist": (14.2, 753.1),
    "battlezone": (2360.0, 37187.5),
    "beamrider": (363.9, 16926.5),
    "berzerk": (123.7, 2630.4),
    "bowling": (23.1, 160.7),
    "boxing": (0.1, 12.1),
    "breakout": (1.7, 30.5),
    "centipede": (2090.9, 12017.0),
    "choppercommand": (811.0, 7387.8),
    "crazyclimber": (10780.5, 35829.4),
    "defender": (2874.5, 18688.9),
    "demonattack": (152.1, 1971.0),
    "doubledunk": (-18.6, -16.4),
    "enduro": (0.0, 860.5),
    "fishingderby": (-91.7, -38.7),
    "freeway": (0.0, 29.6),
    "frostbite": (65.2, 4334.7),
    "gopher": (257.6, 2412.5),
    "gravitar": (173.0, 3351.4),
    "hero": (1027.0, 30826.4),
    "icehockey": (-11.2, 0.9),
    "jamesbond": (29.0, 302.8),
    "kangaroo": (52.0, 3035.0),
    "krull": (1598.0, 2665.5),
    "kungfumaster": (258.5, 22736.3),
    "montezumarevenge": (0.0, 4753.3),
    "mspacman": (307.3, 6951.6),
    "namethisgame": (2292.3, 8049.0),
    "phoenix": (761.4, 7242.6),
    "pitfall": (-229.4, 6463.7),
    "pong": (-20.7, 14.6),
    "privateeye": (24.9, 69571.3),
    "qbert": (163.9, 13455.0),
    "riverraid": (1338.5, 17118.0),
    "roadrunner": (11.5, 7845.0),
    "robotank": (2.2, 11.9),
    "seaquest": (68.4, 42054.7),
    "skiing": (-17098.1, -4336.9),
    "solaris": (1236.3, 12326.7),
    "spaceinvaders": (148.0, 1668.7),
    "stargunner": (664.0, 10250.0),
    "surround": (-10.0, 6.5),
    "tennis": (-23.8, -8.3),
    "timepilot": (3568.0, 5229.2),
    "tutankham": (11.4, 167.6),
    "upndown": (533.4, 11693.2),
    "venture": (0.0, 1187.5),
    "videopinball": (16256.9, 17667.9),
    "wizardofwor": (563.5, 4756.5),
    "yarsrevenge": (3092.9, 54576.9),
    "zaxxon": (32.5, 9173.3),
}
