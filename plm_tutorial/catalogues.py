"""The catalogues of translated messages in two published wheels: a line a file, with size, SHA-256 and place.

In: nothing. Out: what ``assets`` registers. In the wheels all catalogues have one of three names, each in a folder of
its own; in the cache they lie flat, as ``conf.fr.po`` or ``adminjs.zh.po``.
"""

from __future__ import annotations

from plm_tutorial.sources import AssetFile

_DJANGO = """
20149 a6ce86e49bab1c0ff1de516ad3ef1e8eafc9aa5be24845b477d44dc15aee9229 contrib/admin de django
21373 be9df97a7d1de9d3fba4d1381ef3744a56bd3e282dd557277e1810647f3cf7a8 contrib/admin fr django
19234 d2b48743c8c9e4eba25f9ce007086cc12a8ce99f7434ee560126d99058d3372e contrib/admin zh_Hans django
7180 b5590320f17fc186ff29a27b3c5f5c672049a18bba469ce7a0cf49224dd160de contrib/admindocs de django
7329 86251e1d3ba5e19dc95a69029466660f95e7e1ad538f503938b45f294e59766a contrib/admindocs fr django
6823 4cd7491890808b43a28c137ac36dd2c0a89e66a36a92036ddaa7653df63eaf6d contrib/admindocs zh_Hans django
6921 b5bdb96e8c4fae082a9c1ee60763398b267a08433cecf05935afc9cda397145e contrib/admin de djangojs
6891 c2ab3765b14d8240466c53a69e513fe93accda7f933f44e7d544fa598b150a63 contrib/admin fr djangojs
6853 969243c73cdd9e01121735b7f009790db7d015f4e6339f46086a63f2ef5fe2b0 contrib/admin zh_Hans djangojs
8437 ab6c0f9f2c7fc673048031a187e9f01f06f8cf5b73644ff778053a04edc8b6b1 contrib/auth de django
9816 6c4fe8acd5b86ca79b37f01ff05a150929588f855e804ebcc23eda35f4820aaa contrib/auth fr django
8507 a8db12036596982f63ae0e8004bf63546deef79aaae33b6730be0dae1dc6ba0a contrib/auth zh_Hans django
31677 bee23320c466971b03e18d5ab9f5ce1d768adfab7c634d7096c871664fe51051 conf de django
32928 c5d2472789be6b426437600e4de3f5b7ffc3b928929e9ebeecd744d335c2f57e conf fr django
30108 85d45235fdbf08d61c6c88a5f4cbc3ed3b1a671bfdd2b649a2bea287900ce783 conf zh_Hans django
1308 4f9b9c4aa6ba5727d472837a9c5581b63524ad2af3ef0c6bf2dd0d19306b5a8c contrib/contenttypes de django
1379 e8b02b116a01a5d6896bb50f732bf81c9283dd8a0a531af019019dd7a6e2f433 contrib/contenttypes fr django
1380 bd22890c443f00d4e3dfe5bc04525df6efd019d4cc175da24b5e6b5607ae8ceb contrib/contenttypes zh_Hans django
2592 3fab4f54fba63fd270048bfe5d78b5410609ca3d4f637396a0ce323809a04d11 contrib/flatpages de django
2745 9620283a04f609fa4034bfeb633cb3b044f5321b0cd7da3bc00d86067a03bcc0 contrib/flatpages fr django
2533 9688bd46f3a7ae016ce2aa7c156e111a2b3bc200f30415eec216b9a457cb4716 contrib/flatpages zh_Hans django
2129 0c1ff6419d081cec4a279d59c8908d5f6e39f7b5bb0c173f0d3d41fa821df9b6 contrib/gis de django
2258 155b86a554cf3f6f9fe0264a2f4519c0b4b1cb65a20dccf0f7fab72914db7254 contrib/gis fr django
2232 8d72902abdc63a32f92c9eccbf53b7ce99f686bfec03fdf5a2d7bc3f393db4e5 contrib/gis zh_Hans django
7753 816dce7ce7e854cbe956e770821282633b642eb0883db6dcae266304d9d1c86a contrib/humanize de django
8812 4b2375bd4b7ccc31be8924c3478387d41fc26ef28c33661a309dbfb3e144ca88 contrib/humanize fr django
7122 2467d1556ff952ac3223698afd644af310cfcf00403b6abf986b06cdff3d6bcf contrib/humanize zh_Hans django
3611 1a417ac0183b240bc007c604c703b1e21ce92ebd6bd8ae87b2f48b61fca88e8c contrib/postgres de django
3759 e53ff0918a0725ca737a62aa47eedaa59d753dab38759867022b473a04fc8117 contrib/postgres fr django
3084 ed8644f01d1cd47b8a5631b3ade63b8a2cae15ec8f82acca230cf17b960e29be contrib/postgres zh_Hans django
1424 86118d9d50915781cdc610987e65574ce22469b0fbaac55071cc3129ae53cfd8 contrib/redirects de django
1391 fa58f310a894d396a79c9f031f0e0e3a0f1e0c202758b576577dd1fad427f5d1 contrib/redirects fr django
1490 c5999fb82118c7ba2efeabedc41701972e66066912044867c74c6a263de7bccc contrib/redirects zh_Hans django
844 d2a9df0de09440dd9bb8a9fa47432fc2140fd395d6c52bbec60bdfc6f9c97b79 contrib/sessions de django
893 84047119db413b3119fe2572ce436f70a960c8cf1f3a47574c7deea63d971583 contrib/sessions fr django
889 b4fb218178c4bfaa4c138374f36ced6a6261779c211c1dbf215fde81d3fe2e54 contrib/sessions zh_Hans django
980 683d300629eab4350fbc16f0b47acb12115da15471d673a1d7b70916e5a13775 contrib/sites de django
999 bb6e2b1c3278ec0a0181c981c08d6d21eb1c0206e3171a2feb2f74e87fee84ad contrib/sites fr django
946 c48fcdd34c6157c7560e9e1f8393268fd8af38105d1cfefd4f7f896173f27393 contrib/sites zh_Hans django
"""

_SPHINX = """
95314 b54fe1fdbe39b0ce4407d3a06c9ded3a51db3d5c3470f1bc340455cc6172b0da . de sphinx
134707 7845380e17ad28228708f0ade17781a9ec7239b9aa7c6ef84ccb3f76672a6995 . fr sphinx
116867 c3ca54f1a807037155925a8eeb855aa79bcfe9e8895d619f40e3abd6dbde9c63 . zh_CN sphinx
"""


def _files(package: str, table: str) -> tuple[AssetFile, ...]:
    found = []
    for line in table.split("\n")[1:-1]:
        size, sha256, folder, language, name = line.split(" ")
        place = package if folder == "." else f"{package}/{folder}"
        part = f"{folder.rpartition('/')[2]}{name.removeprefix(package)}" if folder != "." else name
        member = f"{place}/locale/{language}/LC_MESSAGES/{name}.po"
        found.append(AssetFile(f"{part}.{language[:2]}.po", sha256, int(size), member))
    return tuple(found)


DJANGO, SPHINX = _files("django", _DJANGO), _files("sphinx", _SPHINX)
