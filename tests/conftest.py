pytest_plugins = ["tests.interpreter"]
