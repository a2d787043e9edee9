"""The post-processors of the API, which image and alchemy workers run."""

UPSCALERS = frozenset(
    {
        "RealESRGAN_x4plus",
        "RealESRGAN_x2plus",
        "RealESRGAN_x4plus_anime_6B",
        "NMKD_Siax",
        "4x_AnimeSharp",
        "4xNomos8kSC",
        "4xLSDIRplus",
        "4xNomosWebPhoto_RealPLKSR",
        "4xNomos2_realplksr_dysample",
        "4xNomos2_hq_dat2",
        "2xModernSpanimationV1",
    }
)
POST_PROCESSORS = UPSCALERS | {"GFPGAN", "GFPGANv1.3", "CodeFormers", "RestoreFormer", "strip_background"}
HEAVY_POST_PROCESSORS = frozenset(
    {
        "RealESRGAN_x4plus",
        "RealESRGAN_x4plus_anime_6B",
        "NMKD_Siax",
        "4x_AnimeSharp",
        "CodeFormers",
        "4xNomos8kSC",
        "4xLSDIRplus",
        "4xNomos2_hq_dat2",
        "RestoreFormer",
    }
)
"""Post-processors that need so much memory that fewer images fit into a batch."""
