"""Terms over parameters: what training is drawn towards, whatever the data say.

A penalty is a function of one trained tensor at a time, under `@penalties.register`:

    parameter    the tensor as it is now, float32, any shape
    start        the same tensor at the start of the run

It returns a scalar. The penalty of a model is the sum over its trained tensors; its gradient is
added once per update. With adapters the trained tensors are the adapters' alone, and a critic's
never count.
"""
