_plain = "model.decoder.bank=null"
_bank = "model.decoder.bank.residual"
_all = ("channel", "spatial", "output")

study = dict(
    title="What sharing buys, on the digits",
    config="configs/digits/lors_digits.py",
    reference="LORS",
    seeds=[1, 2, 3],
    val=["dataloader.test.dataset.names.split=val"],
    test=["dataloader.test.dataset.names.split=test"],
    arms={
        "plain": dict(overrides=[_plain]),
        "LORS": dict(),
        "slow private": dict(overrides=["optimizer.params.lr_factor_func.private=0.25"]),
        "tied": dict(overrides=[f"{_bank}.{name}.private=false" for name in _all]),
        # As in Table 5: of the adaptive weights; the output projection stays LORS's.
        "private only": dict(overrides=[f"{_bank}.{name}.shared=false" for name in ("channel", "spatial")]),
        # AdaMixer's 4 groups, with so few points and patterns that it has LORS's number of parameters.
        "narrow plain": dict(
            overrides=[
                _plain,
                "model.decoder.groups=4",
                "model.decoder.points_in=9",
                "model.decoder.points_out=9",
            ]
        ),
        # Twice the channels, and ranks that make it plain's number of parameters.
        "wide LORS": dict(
            overrides=[
                "model.neck.out_channels=128",
                f"{_bank}.channel.shape=[2,64,64]",
                *(f"{_bank}.{name}.rank=12" for name in _all),
            ]
        ),
    },
)
