"""Runs over several machines: ranks and servers as ordinary processes that Ray places.

    supervisor    starts and watches the processes of one machine
    ray_cluster   machines of a Ray cluster, with a supervisor on each; alone imports ray
    job           starts ranks and servers, prints what they print, and starts again what died

A rank is `posttrain run` or `posttrain resume` with torchrun's variables in its environment.
Nothing else of the package knows of Ray.
"""
