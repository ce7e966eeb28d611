"""Stream engines that people use instead, each a program that runs in an environment of its own."""
