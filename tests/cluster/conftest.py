from tests.cluster.fixtures import broker

__all__ = ["broker"]
