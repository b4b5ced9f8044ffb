"""The two engines that run trials: Ray Tune and the Hydra Optuna sweeper."""
