"""Control with dynamics models in context: soft actor-critic and DICL-SAC."""
