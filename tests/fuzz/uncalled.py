"""Which public names and arguments are not called with bad values, and why."""

UNCHECKED = {
    "what every step of training calls": (
        *("BatchObjective", "GateDraws", "bernoulli_kl", "normal_kl", "relative_cost"),
        *("moments", "marginal_cost", "summarize", "eval_mode"),
    ),
    "records of results, which hold what they are given": (
        *("Splits", "Bin", "Calibration", "RegressionScores", "ExactPosterior", "MeanField", "Recovery", "EpochRow"),
        *("Filtered", "Stability"),
        *("SelectionProblem", "ClassPrediction", "Prediction", "RealPrediction", "GateSample", "RandomState", "Score"),
        *("History", "GateSummary", "Recipe", "Row", "ComparisonResult", "EvidenceBound", "BestFit"),
        "RunReport",
    ),
    "classes that others derive from, or that layers become": (
        *(
            "GatePrior",
            "Likelihood",
            "Bernoulli",
            "Heteroscedastic",
            "Poisson",
            "GatedLayer",
            "RecurrentLayer",
            "NormalLayer",
            "NormalLinear",
            "NormalConv1d",
            "NormalConv2d",
        ),
    ),
    "what needs packages that are not always there, and the like of others": (
        *("export_onnx", "resnet34", "resnet50", "lenet5_bypass", "result_table", "score_table", "total"),
        *("BayesPruneRegressor",),
    ),
    "records that `compare` checks": ("Plan", "Task", "Tuning"),
    "what torch's optimisers are called by": ("nesterov",),
}
"""Public names without a call here, and why."""
RUN = {
    "evaluate": ("loss_on",),
    "paired_differences": ("y", "on"),
    "shared_differences": ("y", "on"),
    "compare": ("on_row", "networks"),
    "interactions": ("predict",),
    "knockoff_filter": ("importance",),
}
"""What goes to the likelihood or to a function of the user as it is; what these raise is theirs."""
