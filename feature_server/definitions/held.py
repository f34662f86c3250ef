"""What the project defines otherwise than is in force: no schedule builds or publishes it until it is applied."""

import msgspec

from .registry import Registry


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """By view id why it is held, which of them are `new`, and the unique ids of the models that are not to be built.

    `gone` are views in force that the project has no more: they keep what they have, like those that are held.
    """

    views: dict[str, str] = {}
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


def held_back(in_force: Registry | None, wanted: Registry) -> Held:
    """The views of the (settled) `wanted` registry whose rows would be others than those in force.

    With them every model that means something else: what is made from one means something else too, so that each view
    that is not held is built from what is in force.
    """
    before = Registry(project=wanted.project) if in_force is None else in_force
    views = {view.id: view.fingerprint for view in before.feature_views}
    meanings = {view.id: view.meaning for view in before.feature_views}
    models = {model.unique_id: model.meaning for model in before.models}
    held, not_built = dict[str, str](), list[str]()
    for view in wanted.feature_views:
        if view.id not in views:
            held[view.id] = "it has never been applied"
        elif views[view.id] != view.fingerprint or meanings[view.id] != view.meaning:
            held[view.id] = "its definition in the project is not the one in force"
        if view.id in held:
            not_built.append(view.unique_id)
    not_built += [model.unique_id for model in wanted.models if models.get(model.unique_id) != model.meaning]
    new = tuple(name for name in held if name not in views)
    gone = tuple(sorted(views.keys() - {view.id for view in wanted.feature_views}))
    return Held(views=held, new=new, gone=gone, models=tuple(sorted(set(not_built))))
