"""Whether states can be read as distributions over the vocabulary at all."""

from torch import nn

from pyengine.models import Model


def output_head(model: Model) -> nn.Module | None:
    """Return what makes logits; None where the model has no head, or the checkpoint none for it.

    A head that the checkpoint lacks is there, but random.
    """
    if model.random_head:
        return None
    try:
        return model.hf.get_submodule(model.family.unembedding)
    except AttributeError:
        return None
