"""One address in front of a deployment's replicas: observe -> pick -> proxy."""
