_plain, _lors = "configs/digits/adamixer_digits.py", "configs/digits/lors_digits.py"
_bank = "model.decoder.bank.residual"
_all = ("channel", "spatial", "output")

study = dict(
    title="What sharing buys, on the digits",
    reference="LORS",
    seeds=[1, 2, 3],
    val=["dataloader.test.dataset.names.split=val"],
    test=["dataloader.test.dataset.names.split=test"],
    arms={
        "plain": dict(config=_plain),
        "LORS": dict(config=_lors),
        "tied": dict(config=_lors, overrides=[f"{_bank}.{name}.private=false" for name in _all]),
        "private only": dict(config=_lors, overrides=[f"{_bank}.{name}.shared=false" for name in _all]),
        # AdaMixer's 4 groups, with so few points and patterns that it has LORS's number of parameters.
        "narrow plain": dict(
            config=_plain,
            overrides=["model.decoder.groups=4", "model.decoder.points_in=9", "model.decoder.points_out=9"],
        ),
        # Twice the channels, and ranks in proportion to the channels: plain's number of parameters.
        "wide LORS": dict(
            config=_lors,
            overrides=[
                "model.neck.out_channels=128",
                f"{_bank}.channel.shape=[2,64,64]",
                *(f"{_bank}.{name}.rank=12" for name in _all),
            ],
        ),
    },
)
