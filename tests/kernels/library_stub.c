/* A library that is there when a column is linked, and nowhere when it is loaded. */
void library_stub(void);

void library_stub(void)
{
}
